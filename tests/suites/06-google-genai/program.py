"""The google-genai SDK with its key from the environment, whole and streamed."""

import pathlib

from google import genai

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

client = genai.Client()

answer = client.models.generate_content(model="gemini-standin", contents="hello")
print(answer.text, answer.candidates[0].finish_reason.value)

chunks = client.models.generate_content_stream(model="gemini-standin", contents="hello")
print([chunk.text for chunk in chunks])
