#!/usr/bin/env python3
"""Takes away each line that holds an agent, and sees that a test notices.

    tests/mutations/run.py                      all of mutations.py, and docs/mutations.md is written
    tests/mutations/run.py --only TEXT          those whose name or file has this text; nothing is written
    tests/mutations/run.py --cargo "nice cargo" another way to call cargo
    tests/mutations/run.py --part 1/2           one of two that run at the same time; the last one that ends writes

It works on copies of HEAD below `target/mutations`, with target directories of their own, so nothing of the checkout is touched; what
was found is kept there for `--part` and for `--resume`, which tries only what is not known yet. As root, since
some walls are only there for uid 0. A mutation that does not compile, or whose anchor is not there, is an error: a list that
does not fit the code proves nothing.
"""

import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from mutations import MUTATIONS  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLACE = ROOT / "target" / "mutations"
FOUND = PLACE / "found"
RESULTS = ROOT / "docs" / "mutations.md"
# A suite that hangs has noticed.
SUITE_MAX = 180
SUITES = {
    "launch": ("writ-run", ["--test", "launch"], []),
    "view": ("writ-run", ["--test", "view"], []),
    "restricted": ("writ-run", ["--test", "restricted"], []),
    "lib": ("writ-run", ["--lib"], []),
    "proxy": ("writ-proxy", ["--lib"], ["assigned"]),
    "escapes": ("writ-cli", ["--test", "escapes"], []),
    "ladder": ("writ-cli", ["--test", "ladder"], []),
}
# The first test that a harness names as failed: the standard one's, or the launch suite's.
FAILED = re.compile(r"test (\S+)(?: \(\w+\))? \.\.\. FAILED")


class Fault(Exception):
    pass


def copy_tree(part):
    global TREE, TARGET
    TREE, TARGET = PLACE / f"tree-{part}", PLACE / f"target-{part}"
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


def run_suite(cargo, name):
    """What failed first; None where all passed."""
    kind, _, filters = name.partition(":")
    package, select, always = SUITES[kind]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(TARGET))
    base = ["test", "--quiet", "-p", package, *select]
    built = subprocess.run([*cargo, *base, "--no-run"], cwd=TREE, env=environment, capture_output=True, text=True)
    if built.returncode != 0:
        raise Fault("it does not compile:\n" + built.stderr)
    tests = ["cargo", "test", "-p", package, *select, "--", *always, *filter(None, filters.split(","))]
    # A process tree of its own: what a mutation leaves behind ends with it.
    tests = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *tests]
    with subprocess.Popen(tests, cwd=TREE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ran:
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


def try_mutation(cargo, file, anchor, replacement, suites):
    path = TREE / file
    original = path.read_text()
    if original.count(anchor) != 1:
        raise Fault(f"{file}: the anchor is there {original.count(anchor)} times: {anchor!r}")
    path.write_text(original.replace(anchor, replacement))
    try:
        for suite in suites.split():
            killer = run_suite(cargo, suite)
            if killer:
                return killer
        return None
    finally:
        path.write_text(original)


def record(name):
    return FOUND / name.replace("/", " ")


def table(results):
    rows = [f"| {name} | `{file.removeprefix('crates/')}` | {killer or '**nothing**'} |" for name, file, killer in results]
    killed = sum(1 for _, _, killer in results if killer)
    return "\n".join(
        [
            "# What notices when a wall is gone",
            "",
            "Each row is a line of the launch, the view or the proxy that was taken away, and the first test that failed without it.",
            "Written by `tests/mutations/run.py` from `tests/mutations/mutations.py` (`just mutations`); it takes an hour and is not a part of CI.",
            f"Noticed: {killed} of {len(results)}.",
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
    parser.add_argument("--cargo", default="cargo")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    cargo = shlex.split(arguments.cargo)
    chosen = [one for one in MUTATIONS if not arguments.only or any(text in one[0] or text in one[1] for text in arguments.only)]
    copy_tree(part)
    faults, results = [], []
    if not arguments.only and not arguments.resume:
        for name in MUTATIONS[part - 1 :: parts]:
            record(name[0]).unlink(missing_ok=True)
        for suite in sorted({suite.partition(":")[0] for one in chosen for suite in one[4].split()}):
            if part == 1 and (failed := run_suite(cargo, suite)):
                print(f"without any mutation, this fails: {failed}")
                return 1
    for name, file, anchor, replacement, suites in chosen[part - 1 :: parts]:
        if arguments.resume and record(name).exists():
            continue
        try:
            killer = try_mutation(cargo, file, anchor, replacement, suites)
        except Fault as fault:
            faults.append(name)
            print(f"FAULT     {name}: {fault}", flush=True)
            continue
        results.append((name, file, killer))
        record(name).write_text(killer or "")
        print(f"{'noticed ' if killer else 'SURVIVED'}  {name}: {killer or ''}", flush=True)
    if not arguments.only and all(record(name).exists() for name, *_ in MUTATIONS):
        RESULTS.write_text(table([(name, file, record(name).read_text()) for name, file, *_ in MUTATIONS]))
    return 1 if faults or any(not killer for _, _, killer in results) else 0


if __name__ == "__main__":
    sys.exit(main())
