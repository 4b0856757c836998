#!/usr/bin/env python3
"""Takes away each line that holds an agent, and sees that a test notices.

    tests/mutations/run.py                      all of mutations.py, and docs/mutations.md is written
    tests/mutations/run.py --only TEXT          those whose name or file has this text; nothing is written
    tests/mutations/run.py --resume             those that are not known yet; the results are kept in target/mutations
    tests/mutations/run.py --around "nice"      what the compiler is called by

It works on a copy of HEAD below `target/mutations`, with a target directory of its own, so nothing of the checkout is touched. As
root, since some walls are only there for uid 0. A mutation that does not compile, or whose anchor is not there, is an error: a
list that does not fit the code proves nothing. Several are compiled, one after another, before their tests run.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from mutations import MUTATIONS, SECOND_LINES  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "target" / "mutations"
TREE = PLACE / "tree"
TARGET = PLACE / "target"
BUILT = PLACE / "built"
FOUND = PLACE / "found"
RESULTS = ROOT / "docs" / "mutations.md"
# Mutations that are compiled before their tests run: each keeps its executables until then.
BATCH = 20
# A suite that hangs has noticed.
SUITE_MAX = 180
SUITES = {
    "launch": ("writ-run", ["--test", "launch"], []),
    "view": ("writ-run", ["--test", "view"], []),
    "restricted": ("writ-run", ["--test", "restricted"], []),
    "lib": ("writ-run", ["--lib"], []),
    "proxy": ("writ-proxy", ["--lib"], ["assigned"]),
    "doors": ("writ-proxy", ["--test", "suite"], []),
    "escapes": ("writ-cli", ["--test", "escapes"], []),
    "ladder": ("writ-cli", ["--test", "ladder"], []),
}
# The first test that a harness names as failed: the standard one's, or the launch suite's.
FAILED = re.compile(r"test (\S+)(?: \(\w+\))? \.\.\. FAILED")


class Fault(Exception):
    pass


def copy_tree():
    subprocess.run(["rm", "-rf", str(TREE)], check=True)
    TREE.mkdir(parents=True)
    FOUND.mkdir(exist_ok=True)
    archive = subprocess.Popen(["git", "-C", str(ROOT), "archive", "HEAD"], stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", str(TREE)], stdin=archive.stdout, check=True)
    if archive.wait() != 0:
        raise Fault("git archive failed")
    built = ROOT / "target" / "debug"
    if built.is_dir() and not TARGET.exists():
        TARGET.mkdir(parents=True)
        # Dependencies are compiled already; cargo never writes into a file that it made before.
        subprocess.run(["cp", "-al", str(built), str(TARGET / "debug")], check=True)


def mutation(name):
    return next(one for one in MUTATIONS if one[0] == name)


def build(jobs):
    """Compiles the suite of each job with its mutation, and keeps the executables: what a call of the compiler is wrapped around."""
    for place, name, suite in jobs:
        _, file, anchor, replacement, _ = mutation(name)
        edits = file if isinstance(file, list) else [(file, anchor, replacement)]
        place = pathlib.Path(place)
        subprocess.run(["rm", "-rf", str(place)], check=True)
        place.mkdir(parents=True)
        originals = {path: path.read_text() for path in (TREE / file for file, _, _ in edits)}
        missing = [anchor for file, anchor, _ in edits if originals[TREE / file].count(anchor) != 1]
        if missing:
            (place / "fault").write_text(f"not there exactly once: {missing}")
            continue
        for file, anchor, replacement in edits:
            (TREE / file).write_text((TREE / file).read_text().replace(anchor, replacement))
        try:
            compile_suite(place, suite)
        finally:
            for path, original in originals.items():
                path.write_text(original)


def compile_suite(place, suite):
    package, select, _ = SUITES[suite.partition(":")[0]]
    command = ["cargo", "test", "-p", package, *select, "--no-run", "--message-format=json-render-diagnostics"]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET))
    ran = subprocess.run(command, cwd=TREE, env=environment, capture_output=True, text=True)
    if ran.returncode != 0:
        (place / "fault").write_text(ran.stderr)
        return
    messages = [json.loads(line) for line in ran.stdout.splitlines()]
    made = [one for one in messages if one.get("executable")]
    for one in made:
        test = one["profile"]["test"]
        shutil.copy(one["executable"], place / ("test" if test else "program"))
        if not test:
            # The suite has this path compiled in.
            (place / "at").write_text(one["executable"])


def run_suite(place, suite):
    """What failed first; None where all passed."""
    if (place / "fault").exists():
        raise Fault((place / "fault").read_text())
    kind, _, filters = suite.partition(":")
    package, _, always = SUITES[kind]
    tests = [str(place / "test"), *always, *filter(None, filters.split(","))]
    script = 'exec "$@"'
    if (place / "program").exists():
        script = f"mount --bind {place / 'program'} {(place / 'at').read_text()} && " + script
    # A process tree of its own: what a mutation leaves behind ends with it.
    alone = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script, "sh"]
    cwd = TREE / "crates" / package
    # As cargo would call it.
    environment = dict(os.environ, CARGO_MANIFEST_DIR=str(cwd))
    with subprocess.Popen([*alone, *tests], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ran:
        hangs = threading.Timer(SUITE_MAX, ran.kill)
        hangs.start()
        first = next(filter(None, map(FAILED.match, ran.stdout)), None)
        hung = not hangs.is_alive()
        hangs.cancel()
        if first or hung:
            ran.kill()
        code = ran.wait()
    if first:
        return f"{kind}: `{first.group(1)}`"
    return None if code == 0 else f"{kind} (it hangs)" if hung else kind


def record(name):
    return FOUND / name.replace("/", " ")


def files(file):
    named = [one[0] for one in file] if isinstance(file, list) else [file]
    return ", ".join(f"`{one.removeprefix('crates/')}`" for one in named)


def outcome(name):
    if not record(name).exists():
        return "not tried yet"
    reason = SECOND_LINES.get(name)
    return record(name).read_text() or (f"nothing: {reason}" if reason else "**nothing**")


def table():
    rows = [f"| {name} | {files(file)} | {outcome(name)} |" for name, file, *_ in MUTATIONS]
    known = [record(name).read_text() for name, *_ in MUTATIONS if record(name).exists()]
    return "\n".join(
        [
            "# What notices when a wall is gone",
            "",
            "Each row is a line of the launch, the view or the proxy that was taken away, and the first test that failed without it.",
            "Written by `tests/mutations/run.py` from `tests/mutations/mutations.py` (`just mutations`), as root on Linux 6.18; it takes an hour",
            "and is not a part of CI.",
            "",
            f"Noticed: {sum(map(bool, known))} of {len(known)} that were tried, of {len(MUTATIONS)}.",
            "",
            "| without it | file | noticed by |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--around", default="")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--table", action="store_true", help="only write the table of what is known")
    parser.add_argument("--build", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.build:
        return build(json.loads(arguments.build))
    if arguments.table:
        return RESULTS.write_text(table()) and 0
    copy_tree()
    if not arguments.only and not arguments.resume:
        subprocess.run(["rm", "-rf", str(FOUND)], check=True)
        FOUND.mkdir()
    chosen = [one for one in MUTATIONS if not arguments.only or any(text in one[0] or text in str(one[1]) for text in arguments.only)]
    if arguments.resume:
        chosen = [one for one in chosen if not record(one[0]).exists()]
    left = [(one[0], one[4].split()) for one in chosen]
    faults, survived = [], []
    while left:
        # One package after the other, so that the compiler has less to do.
        left.sort(key=lambda job: SUITES[job[1][0].partition(":")[0]][0])
        batch, left = left[:BATCH], left[BATCH:]
        jobs = [(str(BUILT / str(number)), name, suites[0]) for number, (name, suites) in enumerate(batch)]
        around = [*shlex.split(arguments.around), sys.executable, __file__, "--build", json.dumps(jobs)]
        subprocess.run(around, check=True)
        for (place, name, suite), (_, suites) in zip(jobs, batch):
            try:
                killer = run_suite(pathlib.Path(place), suite)
            except Fault as fault:
                faults.append(name)
                print(f"FAULT     {name}: {fault}", flush=True)
                continue
            if killer or not suites[1:]:
                record(name).write_text(killer or "")
                survived += [] if killer else [name]
                print(f"{'noticed ' if killer else 'SURVIVED'}  {name}: {killer or ''}", flush=True)
            else:
                left.append((name, suites[1:]))
    if not arguments.only and not faults:
        RESULTS.write_text(table())
    return 1 if faults or survived else 0


if __name__ == "__main__":
    sys.exit(main())
