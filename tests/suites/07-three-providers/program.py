"""Three providers in sequence, twice round, in one run: each gets its own key and no other."""

import pathlib

import anthropic
import openai
from google import genai

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

MESSAGES = [{"role": "user", "content": "hello"}]

chatgpt, claude, gemini = openai.OpenAI(), anthropic.Anthropic(), genai.Client()
for _ in range(2):
    answer = chatgpt.chat.completions.create(model="gpt-standin", messages=MESSAGES)
    print("openai", answer.choices[0].message.content)
    answer = claude.messages.create(model="claude-standin", max_tokens=64, messages=MESSAGES)
    print("anthropic", answer.content[0].text)
    answer = gemini.models.generate_content(model="gemini-standin", contents="hello")
    print("gemini", answer.text)
