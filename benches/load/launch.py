#!/usr/bin/env python3
"""What a confined run costs: launches and file work, each beside doing it without, in turn and in one run.

    launch.py [--only launches|files] [--pause MS] WRIT [ROUNDS]

Prints medians in milliseconds, the lowest and the highest, what that is over the plain program, and the ratio to it. The order
changes from round to round, so that nothing always runs behind the end of the same other thing; `--pause` lets each end in peace
before the next begins. Needs bwrap.
"""
import argparse, os, random, shutil, statistics, subprocess, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument("--only", choices=["launches", "files"])
parser.add_argument("--pause", type=float, default=0, metavar="MS")
parser.add_argument("writ", type=os.path.abspath)
parser.add_argument("rounds", type=int, nargs="?", default=50)
options = parser.parse_args()
writ, rounds = options.writ, options.rounds
home = tempfile.mkdtemp(prefix="writ-launch-")
for name in ("home", "work", "writ"):
    os.mkdir(os.path.join(home, name), 0o700)
work = os.path.join(home, "work")
environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.path.join(home, "home"), "WRIT_HOME": os.path.join(home, "writ")}
with open(os.path.join(home, "writ/writ.toml"), "w") as f:
    f.write('version = 1\n[seal]\nkind = "key-file"\naccept_below_confined = true\n[[credential]]\nname = "k"\n'
            '[[target]]\nname = "t"\npreset = "openai"\ncredential = "k"\n[[role]]\nname = "dev"\ngrants = [{ target = "t" }]\n'
            f'[[workload]]\nspiffe_id = "spiffe://writ.local/dev"\nselectors = ["unix:uid:{os.getuid()}"]\nrole = "dev"\n')
os.chmod(os.path.join(home, "writ/writ.toml"), 0o600)
run = lambda argv: subprocess.run(argv, env=environment, cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
subprocess.run([writ, "credential", "set", "k"], env=environment, cwd=work, input=b"sk-proj-0123456789abcdefghij", check=True, stderr=subprocess.DEVNULL)

confined = [writ, "run", "--quiet", "--require", "confined", "--"]
launches = {
    "true": ["true"],
    "writ --version": [writ, "--version"],
    "bwrap … true": ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"],
    "writ run -- true (confined)": confined + ["true"],
    "writ run --no-confine -- true": [writ, "run", "--quiet", "--no-confine", "--", "true"],
}
FILES = "import os\nfor d in range(60):\n  os.mkdir(f'{P}/{d}')\n  for n in range(200):\n    open(f'{P}/{d}/{n}', 'w').write('x' * 300)\n"
READ = "import os\nfor b, _, fs in os.walk(P):\n  for n in fs: open(os.path.join(b, n)).read()\n"
script = lambda place: ["python3", "-c", f"import os, shutil\nP = {place!r}\nshutil.rmtree(P, ignore_errors=True)\nos.makedirs(P)\n" + FILES + READ + "shutil.rmtree(P)\n"]
jobs = {}
for name, place in (("work tree", os.path.join(work, "files")), ("home", os.path.join(home, "home/files"))):
    jobs[f"12,000 files in the {name}, plain"] = script(place)
    jobs[f"12,000 files in the {name}, confined"] = confined + script(place)


def measure(programs, rounds):
    times = {name: [] for name in programs}
    for argv in programs.values():
        run(argv)
    order = list(programs.items())
    for _ in range(rounds):
        random.shuffle(order)
        for name, argv in order:
            time.sleep(options.pause / 1000)
            start = time.perf_counter()
            run(argv)
            times[name].append((time.perf_counter() - start) * 1000)
    return {name: (statistics.median(found), min(found), max(found)) for name, found in times.items()}


def show(found, base):
    for name, (median, low, high) in found.items():
        over, ratio = median - found[base(name)][0], median / found[base(name)][0]
        print(f"{name:44} {median:9.1f} ms  [{low:.1f}..{high:.1f}]  +{over:.1f} ms  {ratio:6.2f} x", flush=True)


try:
    if options.only != "files":
        show(measure(launches, rounds), lambda name: "true")
    if options.only != "launches":
        show(measure(jobs, max(3, rounds // 10)), lambda name: name.replace("confined", "plain"))
finally:
    subprocess.run([writ, "stop"], env=environment, stderr=subprocess.DEVNULL)
    subprocess.run(["chmod", "-R", "u+rwX", home])
    shutil.rmtree(home)
