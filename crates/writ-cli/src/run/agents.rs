//! What coding agents need to find in a confined run: their managed settings below `/etc`, and their state in the home.

use std::{fs::File, io::Read, path::Path};

use writ_core::{AGENT_FILE_MAX, home_files, managed_settings};
use writ_run::{EtcFile, HomeFile, ProcessPlan, Seeding};

use crate::env_vars;

/// Files of the `/etc` overlay.
pub fn etc(process: &ProcessPlan) -> impl Iterator<Item = EtcFile> {
    let files =
        managed_settings(&|name| variable(process, name), &|path| read(&Path::new("/etc").join(path)));
    files.into_iter().map(|file| EtcFile { path: file.path.into(), content: file.content.as_str().into() })
}

/// Files of the home's layer.
pub fn home(process: &ProcessPlan) -> Vec<HomeFile> {
    let files = home_files(&|name| variable(process, name), &existing);
    let seeded = files.into_iter().map(|file| HomeFile {
        path: file.path.into(),
        content: file.content.as_str().into(),
        mode: 0o600,
        seed: if file.replace { Seeding::NotInLayer } else { Seeding::Absent },
    });
    seeded.collect()
}

fn variable(process: &ProcessPlan, name: &str) -> Option<String> {
    let found = process.environment.iter().find(|(one, _)| one.os() == name);
    found.and_then(|(_, value)| value.os().to_str().map(ToOwned::to_owned))
}

/// The person's own file.
fn existing(path: &'static str) -> Option<Vec<u8>> {
    read(&Path::new(&std::env::var_os(env_vars::HOME)?).join(path))
}

/// What is at `path`, if it can be read and is not too long.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    let length = File::open(path).ok()?.take(AGENT_FILE_MAX as u64 + 1).read_to_end(&mut content).ok()?;
    (length <= AGENT_FILE_MAX).then_some(content)
}
