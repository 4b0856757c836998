"""httpx: HTTP/1.1 and HTTP/2, whole and streamed, blocking and async."""

import asyncio
import os
import pathlib

import httpx

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

URL = "https://api.openai.com/v1/chat/completions"
BODY = {"model": "gpt-standin", "messages": [{"role": "user", "content": "hello"}]}
HEADERS = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}

for http2 in (False, True):
    with httpx.Client(http2=http2, headers=HEADERS, timeout=60) as client:
        answer = client.post(URL, json=BODY)
        print(answer.http_version, answer.status_code, answer.json()["choices"][0]["message"]["content"])
        with client.stream("POST", URL, json=BODY | {"stream": True}) as answer:
            events = [line for line in answer.iter_lines() if line]
            print(answer.http_version, answer.status_code, len(events), events[-1])


async def at_once() -> None:
    async with httpx.AsyncClient(http2=True, headers=HEADERS, timeout=60) as client:
        calls = [client.get("https://api.openai.com/v1/models") for _ in range(20)]
        answers = await asyncio.gather(*calls)
        print(len(answers), {answer.status_code for answer in answers})


asyncio.run(at_once())
