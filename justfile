# Short names for what is run by hand. Everything here is also one cargo command; `cargo xtask ci` runs it all.

default:
    @just --list

# every check and every test: what CI runs
test:
    cargo xtask ci

# rustfmt and clippy
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings

# rules on the source and the walls between crates
tidy:
    cargo xtask tidy
    cargo xtask walls

# the main job, from nothing: no server, no account, no key
demo:
    cargo run --release -- demo

# benchmarks
bench:
    cargo bench --workspace

# crates, licenses and sources; needs `cargo install cargo-deny --locked`
deny:
    cargo deny check bans licenses sources

# takes away each line that holds an agent, and sees that a test notices: an hour, as root; docs/mutations.md is written
mutations:
    tests/mutations/run.py

# kills the daemon 1,000 times and compares PostgreSQL with the leases: a quarter of an hour; docs/crash-safety.md has the result
crash:
    WRIT_CRASH_TRIALS=1060 cargo test -p writ-cli --features fault-points --test crash -- --nocapture whatever_dies
