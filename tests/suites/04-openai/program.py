"""The openai SDK with nothing but its key from the environment: chat, responses, models."""

import os
import pathlib

import openai

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

client = openai.OpenAI(api_key=os.environ["OPENAI_API_KEY"])
MESSAGES = [{"role": "user", "content": "hello"}]

answer = client.chat.completions.create(model="gpt-standin", messages=MESSAGES)
print("chat", answer.choices[0].message.content, answer.usage.total_tokens)

chunks = client.chat.completions.create(model="gpt-standin", messages=MESSAGES, stream=True)
print("chat", [chunk.choices[0].delta.content for chunk in chunks])

answer = client.responses.create(model="gpt-standin", input="hello")
print("responses", answer.output_text, answer.status)

with client.responses.stream(model="gpt-standin", input="hello") as stream:
    kinds = [event.type for event in stream]
    print("responses", len(kinds), kinds[-1], stream.get_final_response().output_text)

print("models", [model.id for model in client.models.list()])
