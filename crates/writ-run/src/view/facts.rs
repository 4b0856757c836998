//! What a view depends on, as this machine has it: gathered once, on the host, before anything is decided.
//!
//! Everything here reads; a thing that cannot be read is not there. The work is bounded and does not grow with the home: known
//! names are looked up, and only the work tree and the caches are walked, up to a limit ([`scan`](super::scan)).

use std::{
    collections::VecDeque,
    env, fs,
    io::Read,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FsWord, statfs};

use super::{
    credentials::{self, CONTENT_MAX, Form, KNOWN},
    lead::{lead, way},
    planning::layer_name,
    scan,
    worktree::{self, WorkTree},
};
use crate::{Step, StepFault, Wishes};

/// What this machine, this account and this directory are like. All paths are canonical unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub(super) uid: u32,
    pub(super) home: PathBuf,
    /// The name by which the person has the home, if that is a link.
    pub(super) home_link: Option<PathBuf>,
    pub(super) directory: PathBuf,
    pub(super) work: WorkTree,
    pub(super) machine: String,
    /// Directories and links of the system that exist.
    pub(super) system: Vec<Entry>,
    /// Every name of the bundle of certificates that exists.
    pub(super) bundles: Vec<Store>,
    pub(super) key_stores: Vec<Store>,
    /// Directories of certificates by hash.
    pub(super) hash_directories: Vec<PathBuf>,
    pub(super) nsswitch: String,
    /// Files that ssh includes: the name in `/etc` and the file itself.
    pub(super) ssh: Vec<Store>,
    pub(super) credentials: Vec<Credential>,
    pub(super) found: scan::Found,
    /// What only root may read, in `/etc` and elsewhere. Empty unless we are root.
    pub(super) root_only: Vec<PathBuf>,
    /// Directories of which not all was looked at for that: their content is not known.
    pub(super) unsearched: Vec<PathBuf>,
    pub(super) caches: Vec<PathBuf>,
    pub(super) caches_absent: Vec<PathBuf>,
    pub(super) readable: Vec<PathBuf>,
    pub(super) hidden: Vec<PathBuf>,
    /// The links on the way to what is hidden, by where they lie.
    pub(super) hidden_links: Vec<PathBuf>,
    pub(super) read_only: Vec<PathBuf>,
    /// Mount points in the home and in `/etc`.
    pub(super) mounts: Vec<PathBuf>,
    /// Our terminal's device.
    pub(super) terminal: Option<PathBuf>,
    /// Where layers are kept, and why they cannot be used there.
    pub(super) layers: Option<Result<PathBuf, &'static str>>,
    /// Whether another run had our layer when we looked; the stage finds out for itself.
    pub(super) layer_in_use: bool,
}

/// Something in `/`, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub path: PathBuf,
    pub link: Option<PathBuf>,
}

/// A file by the name that programs use, whose directory is canonical, and by where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Store {
    pub name: PathBuf,
    pub file: PathBuf,
}

/// A credential file in the home.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    /// Below the home; where a link leads, if it is one.
    pub path: PathBuf,
    pub form: Form,
    pub content: Vec<u8>,
    pub mode: u32,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({:?})", self.path, self.form)
    }
}

/// The part of [`Facts`] for which nobody has to be asked, and most of the work: it is looked at while the namespaces are made.
#[derive(Clone, Debug)]
pub struct Host(Facts);

impl Host {
    /// Looks at this machine and this account.
    ///
    /// # Errors
    /// [`Step::Home`] where there is no home directory.
    pub fn look() -> Result<Self, StepFault> {
        let named = env::home_dir().filter(|home| home.is_absolute());
        let named = named.ok_or_else(|| StepFault::new(Step::Home, "no home directory", 0))?;
        let home = canonical(Step::Home, &named)?;
        let uid = rustix::process::geteuid().as_raw();
        let (root_only, unsearched) =
            if uid == 0 { root_only(&ROOT_PLACES, ROOT_ENTRIES_MAX) } else { Default::default() };
        Ok(Self(Facts {
            uid,
            home_link: Some(named).filter(|named| *named != home),
            machine: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            system: system(),
            bundles: stores(
                BUNDLES.iter().map(PathBuf::from).chain(env::var_os("NIX_SSL_CERT_FILE").map(Into::into)),
            ),
            key_stores: stores(key_stores().into_iter()),
            hash_directories: hash_directories(),
            nsswitch: fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default(),
            ssh: ssh_includes(),
            credentials: known_credentials(&home),
            root_only,
            unsearched,
            mounts: mounts_below(&[&home, Path::new("/etc")]),
            terminal: terminal(),
            home,
            ..Facts::default()
        }))
    }
}

impl Facts {
    /// Looks at what `wishes` name, on top of `host`.
    ///
    /// # Errors
    /// [`Step::WorkTree`] where the start directory is gone.
    pub fn gather(Host(host): Host, wishes: &Wishes) -> Result<Self, StepFault> {
        let directory = canonical(Step::WorkTree, &wishes.directory)?;
        let work = worktree::find(&directory, &host.home);
        let (caches, caches_absent) =
            wishes.caches.iter().map(|cache| &cache.0).partition::<Vec<_>, _>(|cache| cache.is_dir());
        let own: Vec<PathBuf> = work.root.iter().chain(&work.common).cloned().collect();
        let writable = [own.clone(), all_canonical(caches.iter().copied())].concat();
        let caches: Vec<PathBuf> =
            caches.into_iter().filter_map(|cache| cache_at(cache, &own, &writable)).collect();
        let places = [own, caches.clone()].concat();
        let ways = wishes.hidden.iter().filter_map(|path| way(path));
        let (hidden, hidden_links): (Vec<_>, Vec<_>) = ways.map(|way| (way.end, way.links)).unzip();
        let readable: Vec<PathBuf> = wishes.readable.iter().filter_map(|path| lead(path, &places)).collect();
        let trees = host.system.iter().filter(|entry| entry.link.is_none()).map(|entry| &entry.path);
        let shown: Vec<PathBuf> = trees.chain(&readable).cloned().collect();
        let prefixes: Vec<&str> =
            wishes.replacements.iter().flat_map(|one| &one.key_prefixes).map(String::as_str).collect();
        let layers = wishes.layers.as_ref().map(|layers| layers_usable(layers));
        let layer_of = work.root.as_deref().unwrap_or(&host.home);
        Ok(Self {
            found: scan::look(&places, &shown, &prefixes),
            caches,
            caches_absent: caches_absent.into_iter().cloned().collect(),
            readable,
            hidden,
            hidden_links: hidden_links.concat(),
            read_only: all_canonical(wishes.read_only.iter().map(|path| &path.0)),
            layer_in_use: layers.as_ref().is_some_and(|layers| in_use(layers, layer_of)),
            layers,
            directory,
            work,
            ..host
        })
    }
}

/// Where a cache is, unless a link that an agent can lay leads to it from a writable place: it would be made writable as well.
pub(crate) fn cache_at(cache: &Path, own: &[PathBuf], writable: &[PathBuf]) -> Option<PathBuf> {
    let within = |place: &Path, grounds: &[PathBuf]| grounds.iter().any(|ground| place.starts_with(ground));
    let way = way(cache)?;
    let laid = way.links.iter().any(|link| within(link, writable));
    (!laid || within(&way.end, own)).then_some(way.end)
}

fn canonical(step: Step, path: &Path) -> Result<PathBuf, StepFault> {
    fs::canonicalize(path).map_err(StepFault::at(step, path.display().to_string()))
}

fn all_canonical<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Vec<PathBuf> {
    paths.filter_map(|path| fs::canonicalize(path).ok()).collect()
}

/// What of `/` and `/var` is in every view, where the machine has it. `/etc`, `/dev`, `/run`, `/tmp`, `/proc` have their own rules.
const SYSTEM: [&str; 22] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/libexec",
    "/opt",
    "/nix",
    "/gnu",
    "/snap",
    "/sys",
    "/var/lib/dpkg",
    "/var/lib/rpm",
    "/var/lib/pacman",
    "/var/lib/apt/lists",
    "/var/lib/ca-certificates",
    "/var/lib/gems",
    "/var/lib/flatpak",
    "/var/lib/snapd/snap",
    "/var/cache/fontconfig",
];

fn system() -> Vec<Entry> {
    let entries = SYSTEM.iter().filter_map(|path| {
        let meta = fs::symlink_metadata(path).ok()?;
        let link = if meta.is_symlink() { Some(fs::read_link(path).ok()?) } else { None };
        (link.is_some() || meta.is_dir()).then(|| Entry { path: path.into(), link })
    });
    entries.collect()
}

/// Where distributions keep the bundle (research: confinement §3).
const BUNDLES: [&str; 9] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
];

/// Where distributions keep Java's.
const KEY_STORES: [&str; 4] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/etc/pki/java/cacerts",
    "/var/lib/ca-certificates/java-cacerts",
];
/// Directories with one Java in each entry.
const JAVAS: [&str; 4] = ["/usr/lib/jvm", "/usr/lib64/jvm", "/usr/java", "/opt/java"];
const JAVAS_MAX: usize = 64;

fn key_stores() -> Vec<PathBuf> {
    let javas = JAVAS.iter().flat_map(|javas| fs::read_dir(javas).into_iter().flatten().flatten());
    let mut homes: Vec<PathBuf> = javas.take(JAVAS_MAX).map(|java| java.path()).collect();
    homes.extend(env::var_os("JAVA_HOME").map(PathBuf::from));
    let inside = homes.iter().flat_map(|home| {
        [home.join("lib/security/cacerts"), home.join("jre/lib/security/cacerts")].into_iter()
    });
    KEY_STORES.iter().map(PathBuf::from).chain(inside).collect()
}

/// Those of `names` that are files.
fn stores(names: impl Iterator<Item = PathBuf>) -> Vec<Store> {
    let mut found: Vec<Store> = names
        .filter_map(|name| {
            let file = fs::canonicalize(&name).ok().filter(|file| file.is_file())?;
            let directory = fs::canonicalize(name.parent()?).ok()?;
            Some(Store { name: directory.join(name.file_name()?), file })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found.dedup();
    found
}

fn hash_directories() -> Vec<PathBuf> {
    let all = ["/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/ca-certificates/extracted/cadir"];
    let mut found: Vec<PathBuf> = all.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// ssh refuses an included file that belongs to nobody it knows, as the host's root seems inside.
fn ssh_includes() -> Vec<Store> {
    let entries = fs::read_dir("/etc/ssh/ssh_config.d").into_iter().flatten().flatten();
    let named = entries.take(SSH_INCLUDES_MAX).map(|entry| entry.path());
    let main = ["/etc/ssh/ssh_config", "/etc/crypto-policies/back-ends/openssh.config"];
    stores(named.chain(main.iter().map(PathBuf::from)))
}

const SSH_INCLUDES_MAX: usize = 64;

pub(crate) fn known_credentials(home: &Path) -> Vec<Credential> {
    let known = KNOWN.iter().filter_map(|(path, form)| credential(home, &home.join(path), *form));
    let keys = fs::read_dir(home.join(".ssh")).into_iter().flatten().flatten().take(SSH_FILES_MAX);
    let keys = keys.filter_map(|entry| {
        let path = entry.path();
        let begin = path.is_file().then(|| begin(&path, KEY_BEGIN_MAX)).flatten();
        let private = credentials::is_private_key(Path::new(path.file_name()?), begin.as_deref());
        if private { credential(home, &path, Form::Absent) } else { None }
    });
    let mut found: Vec<Credential> = known.chain(keys).collect();
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    found
}

const SSH_FILES_MAX: usize = 256;
const KEY_BEGIN_MAX: u64 = 128;

/// The credential at `path`, by where it is: many a dotfile is a link. One that lies outside the home is not in the view.
fn credential(home: &Path, path: &Path, form: Form) -> Option<Credential> {
    let file = fs::canonicalize(path).ok()?;
    let below = file.strip_prefix(home).ok()?.to_owned();
    let meta = fs::metadata(&file).ok()?;
    let content = if meta.is_file() && form != Form::Absent && meta.len() <= CONTENT_MAX {
        begin(&file, CONTENT_MAX)
    } else {
        None
    };
    // What cannot be read cannot be copied.
    let form = if content.is_some() { form } else { Form::Absent };
    Some(Credential { path: below, form, content: content.unwrap_or_default(), mode: meta.mode() & 0o700 })
}

fn begin(path: &Path, limit: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path).ok()?.take(limit).read_to_end(&mut content).ok()?;
    Some(content)
}

/// What an ordinary account could not read, as root sees it, in `places` to some depth; and the directories that were not looked through,
/// because there was more than `left`. What is near the top comes first.
fn root_only(places: &[(&str, usize)], mut left: usize) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let mut found = Vec::new();
    let mut queue: VecDeque<(PathBuf, usize)> =
        places.iter().map(|(path, depth)| (path.into(), *depth)).collect();
    while let Some((directory, depth)) = queue.pop_front() {
        if depth == 0 {
            found.extend(directory.is_dir().then_some(directory));
            continue;
        }
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Some(rest) = usize::checked_sub(left, 1) else {
                let rest = queue.into_iter().map(|(directory, _)| directory);
                return (found, rest.chain([directory]).filter(|place| place.is_dir()).collect());
            };
            left = rest;
            // Most of `/etc` are links to certificates, which need no further look.
            if !entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir()) {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            let needed = if meta.is_dir() { 0o005 } else { 0o004 };
            if meta.mode() & needed != needed {
                found.push(entry.path());
            } else if meta.is_dir() && depth > 1 {
                queue.push_back((entry.path(), depth - 1));
            }
        }
    }
    (found, Vec::new())
}

/// `/etc`, where administrators put programs, near the top, and what is root's alone whatever its mode is.
const ROOT_PLACES: [(&str, usize); 5] =
    [("/etc", 8), ("/opt", 2), ("/usr/local/etc", 3), ("/sys/kernel/debug", 0), ("/sys/kernel/tracing", 0)];
const ROOT_ENTRIES_MAX: usize = 20_000;

/// Mount points below `places`.
fn mounts_below(places: &[&Path]) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let table = String::from_utf8_lossy(&table).into_owned();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    points.filter(|point| places.iter().any(|place| point != place && point.starts_with(place))).collect()
}

/// `proc(5)`: space, tab, newline and backslash are written in octal.
fn unescaped(name: &str) -> PathBuf {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(name.to_owned(), |name, (octal, text)| name.replace(octal, text))
        .into()
}

/// The device behind our standard streams, by its name.
fn terminal() -> Option<PathBuf> {
    let devices = (0..3).filter_map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).ok());
    devices
        .filter(|path| path.starts_with("/dev/pts") || path.to_string_lossy().starts_with("/dev/tty"))
        .find(|path| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_char_device()))
}

/// Whether an overlay's upper layer can be there.
fn layers_usable(layers: &Path) -> Result<PathBuf, &'static str> {
    let layers = fs::canonicalize(layers).map_err(|_| "there is no such directory")?;
    match statfs(&layers).map(|found| found.f_type) {
        Ok(OVERLAY) => Err("it lies on an overlay, which cannot carry another"),
        Ok(_) => Ok(layers),
        Err(_) => Err("it cannot be looked at"),
    }
}

/// Whether somebody holds the lock of the layer for runs in `of`.
fn in_use(layers: &Result<PathBuf, &'static str>, of: &Path) -> bool {
    let Ok(layers) = layers else { return false };
    let lock = fs::File::open(layers.join(layer_name(of)).join("lock"));
    lock.is_ok_and(|lock| writ_sys::flock_exclusive_nonblocking(&lock).is_ok_and(|locked| !locked))
}

/// `OVERLAYFS_SUPER_MAGIC` of `linux/magic.h`.
const OVERLAY: FsWord = 0x794c_7630;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_not_looked_through_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        for name in ["a/one", "a/two", "b/one", "b/two"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(at("a/two"), fs::Permissions::from_mode(0o600)).unwrap();
        let top = scratch.path().to_str().unwrap();
        assert_eq!(root_only(&[(top, 8)], 6), (vec![at("a/two")], vec![]));
        let (found, unsearched) = root_only(&[(top, 8)], 4);
        // Which of them comes first is the file system's.
        let searched = if unsearched == [at("a")] { vec![] } else { vec![at("a/two")] };
        assert_eq!((found, unsearched.len()), (searched, 1), "{unsearched:?}");
        let (_, unsearched) = root_only(&[(top, 8)], 1);
        assert!(unsearched.contains(&scratch.path().to_owned()), "{unsearched:?}");
    }
}
