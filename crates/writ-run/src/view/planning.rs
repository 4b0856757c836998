//! The decision: facts and wishes in, a view and notes for the person out. Pure.

use std::path::{Path, PathBuf};

use super::{
    Content, Etc, Facts, Home, Place, Seed, Source, View, credentials, etc, facts::Store, trust, worktree,
};
use crate::{Bytes, RawPath, Seeding, Wishes, plan::DELIVERED};

/// A planned view, and what the person should know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    pub view: View,
    /// One line each; names of files are quoted.
    pub notes: Vec<String>,
    /// Where the program starts, the same directory inside as outside. It may be missing inside where there is no work tree.
    pub directory: RawPath,
    /// The writable work tree.
    pub work_tree: Option<RawPath>,
}

/// Why there is no view for these wishes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    #[error("{place:?} would be writable inside, but it lies in {hidden:?}, which is never in the view")]
    Hidden { place: PathBuf, hidden: PathBuf },
    #[error("{link:?} leads to writ's own files, and would be writable inside")]
    Way { link: PathBuf },
    #[error("{0:?} has too many entries to find what only root may read")]
    Unsearched(PathBuf),
    #[error("{0:?} is no path below /etc")]
    EtcPath(PathBuf),
    #[error("{0:?} is no path below the home")]
    HomePath(PathBuf),
}

/// Decides what is in the view.
///
/// # Errors
/// [`PlanFault`], where the wishes contradict each other.
pub fn plan(facts: &Facts, wishes: &Wishes) -> Result<Planned, PlanFault> {
    let mut draft = Draft { facts, wishes, places: Vec::new(), grounds: Vec::new(), notes: Vec::new() };
    draft.system();
    draft.devices();
    draft.delivered();
    draft.grounds()?;
    draft.readable();
    draft.home()?;
    draft.etc()?;
    draft.covers();
    draft.told();
    let Draft { mut places, notes, .. } = draft;
    // A parent has fewer components than what lies in it, and of one place the last word counts.
    places.sort_by_key(|place| place.at.components().count());
    let work_tree = facts.work.root.clone().map(RawPath);
    Ok(Planned { view: View { places }, notes, directory: facts.directory.clone().into(), work_tree })
}

struct Draft<'a> {
    facts: &'a Facts,
    wishes: &'a Wishes,
    places: Vec<Place>,
    /// What is writable, outermost only.
    grounds: Vec<PathBuf>,
    notes: Vec<String>,
}

impl Draft<'_> {
    fn put(&mut self, at: impl Into<PathBuf>, content: Content) {
        self.places.push(Place { at: RawPath(at.into()), content });
    }

    fn link(&mut self, at: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.put(at, Content::Link { target: RawPath(target.into()) });
    }

    fn system(&mut self) {
        let facts = self.facts;
        for entry in &facts.system {
            match &entry.link {
                Some(target) => self.link(&entry.path, target),
                None => self.put(&entry.path, Content::Tree),
            }
        }
        for (path, mode) in
            [("/proc", 0o555), ("/run/lock", 0o1777), ("/var/cache", 0o755), ("/var/log", 0o755)]
        {
            self.put(path, Content::Directory { mode });
        }
        self.put(format!("/run/user/{}", facts.uid), Content::Directory { mode: 0o700 });
        for (path, mode) in [("/run", 0o755), ("/tmp", 0o1777), ("/var/tmp", 0o1777)] {
            self.put(path, Content::Fresh { mode });
        }
        self.link("/var/run", "/run");
        self.link("/var/lock", "/run/lock");
        if let Some(link) = facts.home_link.as_ref().filter(|link| !self.shown(link)) {
            self.link(link, &facts.home);
        }
    }

    fn devices(&mut self) {
        self.put("/dev", Content::Fresh { mode: 0o755 });
        self.put("/dev/shm", Content::Fresh { mode: 0o1777 });
        self.put("/dev/pts", Content::Terminals);
        for name in ["null", "zero", "full", "random", "urandom", "tty"] {
            let device = format!("/dev/{name}");
            self.put(&device, Content::Device { from: device.as_str().into() });
        }
        if let Some(terminal) = &self.facts.terminal {
            self.put("/dev/console", Content::Device { from: terminal.into() });
        }
        self.link("/dev/ptmx", "pts/ptmx");
        self.link("/dev/fd", "/proc/self/fd");
        for (number, name) in ["stdin", "stdout", "stderr"].iter().enumerate() {
            self.link(format!("/dev/{name}"), format!("/proc/self/fd/{number}"));
        }
    }

    fn delivered(&mut self) {
        if !self.wishes.delivered.is_empty() {
            self.put(DELIVERED, Content::Delivered { files: self.wishes.delivered.clone() });
        }
    }

    fn grounds(&mut self) -> Result<(), PlanFault> {
        let facts = self.facts;
        if facts.work.root.is_none() {
            let directory = &facts.directory;
            self.notes.push(format!(
                "nothing of {directory:?} is writable inside: start in a project's directory to work on it"
            ));
        }
        for cache in &facts.caches_absent {
            self.notes.push(format!("the cache {cache:?} is no directory, so it is left out"));
        }
        let (caches, wide): (Vec<_>, Vec<_>) =
            facts.caches.iter().partition(|cache| worktree::writable(cache, &facts.home));
        for cache in wide {
            self.notes.push(format!("{cache:?} is too wide for a cache, so it is left out"));
        }
        let mut wanted: Vec<&PathBuf> =
            facts.work.root.iter().chain(&facts.work.common).chain(caches).collect();
        wanted.sort_by_key(|place| place.components().count());
        for place in wanted {
            if let Some(hidden) = facts.hidden.iter().find(|hidden| place.starts_with(hidden)) {
                return Err(PlanFault::Hidden { place: place.clone(), hidden: hidden.clone() });
            }
            if !self.grounds.iter().any(|ground| place.starts_with(ground)) {
                self.grounds.push(place.clone());
                self.put(place, Content::Ground);
            }
        }
        self.pinned()
    }

    /// Keeps the way to what is hidden as it is: whoever could rename a directory above it, or change a link to it, would put
    /// their own in its place, and the host would believe it. Nothing that something is mounted on can be renamed.
    fn pinned(&mut self) -> Result<(), PlanFault> {
        let facts = self.facts;
        if let Some(link) = facts.hidden_links.iter().find(|link| self.in_ground(link)) {
            return Err(PlanFault::Way { link: link.clone() });
        }
        for hidden in &facts.hidden {
            let above: Vec<&Path> = hidden
                .ancestors()
                .skip(1)
                .take_while(|above| {
                    self.in_ground(above) && !self.grounds.iter().any(|ground| ground == above)
                })
                .collect();
            for place in above {
                if !self.places.iter().any(|known| *known.at == *place) {
                    self.put(place, Content::Ground);
                }
            }
        }
        Ok(())
    }

    fn readable(&mut self) {
        for path in &self.facts.readable {
            let hidden = self.facts.hidden.iter().any(|hidden| path.starts_with(hidden));
            if hidden || self.shown(path) || path.starts_with("/etc") {
                continue;
            }
            if worktree::showable(path, &self.facts.home) {
                self.put(path, Content::Tree);
            } else {
                self.notes.push(format!("{path:?} is too wide to be shown for a tool, so it is left out"));
            }
        }
    }

    /// Whether the host's `path` is in the view, as far as it was planned.
    fn shown(&self, path: &Path) -> bool {
        let trees =
            self.places.iter().filter(|place| matches!(place.content, Content::Tree | Content::Ground));
        path.starts_with(&self.facts.home) || trees.into_iter().any(|place| path.starts_with(&*place.at))
    }

    fn in_ground(&self, path: &Path) -> bool {
        self.grounds.iter().any(|ground| path.starts_with(ground))
    }

    fn home(&mut self) -> Result<(), PlanFault> {
        let facts = self.facts;
        let mut home = Home { layer: self.layer(), ..Home::default() };
        for file in &self.wishes.home {
            if !is_plain(&file.path) {
                return Err(PlanFault::HomePath(file.path.0.clone()));
            }
            let (path, content) = (file.path.clone(), file.content.clone());
            home.files.push(Seed { path, content, mode: file.mode & 0o777, seed: file.seed });
        }
        let (mut copied, mut absent) = (Vec::new(), Vec::new());
        for credential in &facts.credentials {
            let path = facts.home.join(&credential.path);
            if self.in_ground(&path) {
                self.notes.push(format!(
                    "{path:?} is a credential file in a writable place: it is readable inside"
                ));
                continue;
            }
            if home.files.iter().any(|file| *file.path == *credential.path && file.seed == Seeding::Always) {
                continue;
            }
            match credentials::copy(credential.form, &credential.content, &self.wishes.replacements) {
                Some(content) => {
                    copied.push(format!("{:?}", credential.path));
                    let path = RawPath(credential.path.clone());
                    home.files.push(Seed {
                        path,
                        content: content.into(),
                        mode: credential.mode,
                        seed: Seeding::Always,
                    });
                }
                None => {
                    absent.push(format!("{:?}", credential.path));
                    home.absent.push(RawPath(credential.path.clone()));
                }
            }
        }
        for (what, names) in [("copies with placeholders", copied), ("not there", absent)] {
            if !names.is_empty() {
                self.notes
                    .push(format!("of the home's credential files inside, {what}: {}", names.join(", ")));
            }
        }
        home.closed = self.closed();
        self.put(&facts.home, Content::Home(home));
        Ok(())
    }

    /// Places of credentials where nothing is yet.
    fn closed(&self) -> Vec<RawPath> {
        let facts = self.facts;
        let there = |path: &Path| facts.credentials.iter().any(|credential| credential.path == path);
        let ours = |path: &Path| self.wishes.home.iter().any(|file| *file.path == *path);
        let known = credentials::KNOWN.iter().map(|(path, _)| Path::new(path));
        let known = known.chain(credentials::KEYS.iter().map(Path::new));
        let open =
            known.filter(|path| !there(path) && !ours(path) && !self.in_ground(&facts.home.join(path)));
        open.map(RawPath::from).collect()
    }

    /// One layer for each work tree: what an agent leaves in one project's must not meet the next project's.
    fn layer(&mut self) -> Option<RawPath> {
        if let Some(mount) = self.facts.mounts.iter().find(|mount| mount.starts_with(&self.facts.home)) {
            self.notes
                .push(format!("changes to the home are not kept: something is mounted in it, at {mount:?}"));
            return None;
        }
        match self.facts.layers.as_ref()? {
            Ok(layers) => {
                let of = self.facts.work.root.as_deref().unwrap_or(&self.facts.home);
                let path = layers.join(layer_name(of));
                if self.facts.layer_in_use {
                    self.notes.push(
                        "another run has this project's layer: changes to the home are not kept".into(),
                    );
                }
                Some(RawPath(path))
            }
            Err(why) => {
                self.notes.push(format!("changes to the home are not kept: {why}"));
                None
            }
        }
    }

    fn etc(&mut self) -> Result<(), PlanFault> {
        let facts = self.facts;
        let text = |content: &str| Source::Text { content: content.into() };
        let mut files = vec![
            (PathBuf::from("/etc/resolv.conf"), text(etc::RESOLV_CONF)),
            (PathBuf::from("/etc/nsswitch.conf"), text(&etc::nsswitch(&facts.nsswitch))),
            (PathBuf::from("/etc/hosts"), text(&etc::hosts(&facts.machine))),
        ];
        files.extend(
            facts.ssh.iter().map(|ssh| (ssh.name.clone(), Source::Copy { from: ssh.file.clone().into() })),
        );
        files.extend(self.trust());
        for file in &self.wishes.etc {
            if !is_plain(&file.path) {
                return Err(PlanFault::EtcPath(file.path.0.clone()));
            }
            files.push((Path::new("/etc").join(&*file.path), Source::Text { content: file.content.clone() }));
        }
        let mut overlay = Etc::default();
        for (path, source) in files {
            match path.strip_prefix("/etc") {
                Ok(below) => overlay.files.push((below.into(), source)),
                Err(_) if self.shown(&path) => self.put(path, Content::File { source }),
                Err(_) => {}
            }
        }
        let needed = |place: &Path| {
            overlay.files.iter().any(|(own, _)| Path::new("/etc").join(&**own).starts_with(place))
        };
        if let Some(place) = facts.unsearched.iter().find(|place| needed(place)) {
            return Err(PlanFault::Unsearched(place.clone()));
        }
        let unknown = facts.root_only.iter().chain(&facts.unsearched);
        let absent = unknown.filter_map(|only| only.strip_prefix("/etc").ok());
        overlay.absent = absent
            .map(RawPath::from)
            .filter(|path| overlay.files.iter().all(|(own, _)| own != path))
            .collect();
        self.put("/etc", Content::Etc(overlay));
        Ok(())
    }

    /// The session's CA under every name of the bundle, in the hash directories, and for every Java.
    fn trust(&self) -> Vec<(PathBuf, Source)> {
        let facts = self.facts;
        let extra = || Bytes(self.wishes.ca_pem.as_bytes().to_vec());
        let mut files = Vec::new();
        for store in &facts.bundles {
            let source = || Source::Bundle { from: store.file.clone().into(), extra: extra() };
            files.extend(replaced(store).map(|path| (path, source())));
        }
        if facts.bundles.is_empty() {
            files.push((PathBuf::from(BUNDLE), Source::Text { content: extra() }));
        }
        let hashed = facts.hash_directories.iter().map(|directory| directory.join(trust::HASH_LINK));
        files.extend(hashed.map(|path| (path, Source::Text { content: extra() })));
        let from = facts.bundles.first().map_or(RawPath::default(), |store| store.file.clone().into());
        for store in &facts.key_stores {
            let source = || Source::KeyStore { from: from.clone(), extra: extra() };
            files.extend(replaced(store).map(|path| (path, source())));
        }
        files.sort_by(|a, b| a.0.cmp(&b.0));
        files.dedup_by(|a, b| a.0 == b.0);
        files
    }

    fn covers(&mut self) {
        let facts = self.facts;
        let only = facts.root_only.iter().chain(&facts.unsearched).filter(|only| !only.starts_with("/etc"));
        let daemon = PathBuf::from(NIX_DAEMON);
        let mut covered: Vec<&PathBuf> =
            facts.hidden.iter().chain(&facts.found.sockets).chain(only).chain([&daemon]).collect();
        covered.sort();
        for path in covered {
            let mut covers = self.places.iter().filter(|place| place.content == Content::Cover);
            let within = covers.any(|place| path.starts_with(&*place.at));
            if self.shown(path) && !within {
                self.put(path, Content::Cover);
            }
        }
        for path in &facts.read_only {
            if self.in_ground(path) {
                self.put(path, Content::Tree);
            }
        }
    }

    fn told(&mut self) {
        if !self.facts.unsearched.is_empty() {
            let left = self.facts.unsearched.iter().take(NAMED_MAX).map(|path| format!("{path:?}"));
            let left = left.collect::<Vec<_>>().join(", ");
            self.notes.push(format!(
                "too many entries to find what only root may read, so these are left out: {left}"
            ));
        }
        let found = &self.facts.found;
        let hidden = |path: &&PathBuf| !self.facts.hidden.iter().any(|hidden| path.starts_with(hidden));
        let sockets: Vec<String> =
            found.sockets.iter().filter(hidden).take(NAMED_MAX).map(|path| format!("{path:?}")).collect();
        let secrets: Vec<String> =
            found.secrets.iter().filter(hidden).take(NAMED_MAX).map(|path| format!("{path:?}")).collect();
        if !sockets.is_empty() {
            self.notes.push(format!("sockets that do not connect inside: {}", sockets.join(", ")));
        }
        if !secrets.is_empty() {
            self.notes.push(format!(
                "files with what looks like a real key, readable inside: {}",
                secrets.join(", ")
            ));
        }
        if found.cut {
            self.notes.push(
                "the writable places are large: sockets and keys were looked for in a part of them".into(),
            );
        }
    }
}

/// What must be replaced for programs that open `store`: the file, and in `/etc` a link to it as well. Elsewhere links stay.
fn replaced(store: &Store) -> impl Iterator<Item = PathBuf> {
    let link = (store.name != store.file && store.name.starts_with("/etc")).then(|| store.name.clone());
    link.into_iter().chain([store.file.clone()])
}

/// The directory of the layer for runs in `of`.
pub(super) fn layer_name(of: &Path) -> String {
    let digest = trust::sha1(of.as_os_str().as_encoded_bytes());
    digest.iter().take(LAYER_NAME_BYTES).fold(String::new(), |name, byte| format!("{name}{byte:02x}"))
}

/// Of a SHA-1, for a directory's name.
const LAYER_NAME_BYTES: usize = 16;
/// It builds and runs things outside for whoever connects.
const NIX_DAEMON: &str = "/nix/var/nix/daemon-socket";
/// In one note.
const NAMED_MAX: usize = 16;
/// Where there is no bundle at all.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Whether a path stays below where it is joined to.
fn is_plain(path: &Path) -> bool {
    use std::path::Component;
    !path.as_os_str().is_empty()
        && path.components().all(|component| matches!(component, Component::Normal(_)))
}

#[cfg(test)]
#[path = "planning_tests.rs"]
mod tests;
