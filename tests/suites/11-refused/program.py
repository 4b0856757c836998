"""What a refusal looks like to programs: the SDKs' own errors, at once, with a sentence of writ's in them.

On `/v1/responses` it is a 400, since Codex repeats after 403.

The role may list OpenAI's models and nothing else there; Anthropic it may not ask at all.
"""

import os
import pathlib

import anthropic
import openai
import requests

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

MESSAGES = [{"role": "user", "content": "hello"}]

chatgpt = openai.OpenAI()
print("models", [model.id for model in chatgpt.models.list()])
try:
    chatgpt.chat.completions.create(model="gpt-standin", messages=MESSAGES)
except openai.APIStatusError as refused:
    print(type(refused).__name__, refused.status_code, refused.body["type"], bool(refused.body["message"]))

claude = anthropic.Anthropic(api_key="unknown")
try:
    claude.messages.create(model="claude-standin", max_tokens=64, messages=MESSAGES)
except anthropic.APIConnectionError as refused:
    print(type(refused).__name__)

answer = requests.post(
    "https://api.openai.com/v1/responses",
    headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
    json={},
    timeout=60,
)
problem = answer.json()
print(answer.status_code, answer.headers["content-type"], answer.headers["x-should-retry"])
print(problem["type"], sorted(problem), all(problem.values()))

print("models", [model.id for model in chatgpt.models.list()])
