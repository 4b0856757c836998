"""aiohttp, with the proxy of the environment if there is one."""

import asyncio
import os

import aiohttp


async def main():
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    body = {"model": "gpt-standin", "messages": [{"role": "user", "content": "hello"}]}
    url = "https://api.openai.com/v1/chat/completions"
    async with aiohttp.ClientSession(trust_env=True, headers=headers) as session:
        async with session.post(url, json=body) as answer:
            content = (await answer.json())["choices"][0]["message"]["content"]
            print(answer.status, content)


asyncio.run(main())
