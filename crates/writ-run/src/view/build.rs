//! Builds a view, place by place, in the mount namespace of the caller.
//!
//! ```text
//!   /                     the host's root, as the caller still sees it: every source is opened beneath its descriptor
//!   └─ (on top) base      memory, the new root: every target is opened beneath its descriptor
//!        ├─ usr …         copies of the host's mounts, read-only
//!        └─ home/ada      an overlay; its upper half lies in the directory that it covers, or in a kept layer
//! ```

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::process::{fchdir, umask};
use writ_sys::namespaces::MS_PRIVATE;

use super::compose::{Directories, compose};
use super::layer::{self, Layer};
use super::mounts::{self, Access};
use super::{Content, Etc, Home, Place, Source, View, delivered, trust};
use crate::{Delivered, RawPath, Step, StepFault};

/// What must stay open for as long as the view is used.
#[derive(Debug, Default)]
pub struct Built {
    /// The place through which files are delivered, if there is one.
    pub delivered: Option<OwnedFd>,
    /// Of a kept layer: the lock on it, and its mount. Whoever closes the mount last waits for the disk, since the kernel then
    /// writes out the whole file system that the layer is on.
    pub remains: Vec<OwnedFd>,
}

impl View {
    /// Builds the view and leaves its root as the current directory. To be called in a new user and mount namespace, with
    /// the ids mapped, by a process of one thread.
    ///
    /// What it answers with must stay open for as long as the view is used.
    ///
    /// # Errors
    /// [`Step::Propagation`], [`Step::Tree`], [`Step::Home`], [`Step::WorkTree`] and [`Step::Etc`], with the path.
    pub fn build(&self) -> Result<Built, StepFault> {
        let before = umask(Mode::empty());
        let built = self.build_places();
        umask(before);
        built
    }

    fn build_places(&self) -> Result<Built, StepFault> {
        let root = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let host = root.map_err(StepFault::at(Step::Propagation, "/"))?;
        // A mount that the host makes later must not appear inside.
        writ_sys::mount_setattr(&host, true, 0, 0, MS_PRIVATE)
            .map_err(StepFault::at(Step::Propagation, "/"))?;
        let base = mounts::memory(0o755).map_err(StepFault::at(Step::Tree, "memory"))?;
        mounts::put(base.as_fd(), host.as_fd()).map_err(StepFault::at(Step::Tree, "/"))?;
        let mut builder = Builder::new(host, base)?;
        for place in &self.places {
            builder.place(place)?;
        }
        builder.close()
    }
}

struct Builder {
    host: OwnedFd,
    base: OwnedFd,
    /// A directory of the base for what is mounted from it; it is taken away at the end.
    store: OwnedFd,
    stored: usize,
    /// Places whose content is not ours to change.
    foreign: Vec<PathBuf>,
    home: Option<PathBuf>,
    /// Java's certificates take a while to write, and most machines have them under two names.
    key_stores: Vec<(Source, Vec<u8>)>,
    built: Built,
}

impl Builder {
    fn new(host: OwnedFd, base: OwnedFd) -> Result<Self, StepFault> {
        let fault = || StepFault::at::<Errno>(Step::Tree, STORE);
        let store = mounts::make_directory(base.as_fd(), &c(STORE), 0o700).map_err(fault())?;
        mounts::make_directory(store.as_fd(), &c(EMPTY), 0o555).map_err(fault())?;
        layer::write(store.as_fd(), &c(NOTHING), b"", 0o444).map_err(fault())?;
        let (foreign, key_stores) = (Vec::new(), Vec::new());
        Ok(Self { host, base, store, stored: 0, foreign, home: None, key_stores, built: Built::default() })
    }

    fn place(&mut self, place: &Place) -> Result<(), StepFault> {
        let at: &Path = &place.at;
        let step = step_of(&place.content);
        let fault = || StepFault::at::<Errno>(step, at.display().to_string());
        match &place.content {
            Content::Link { target } => self.link(at, target).map_err(fault()),
            Content::Directory { mode } => self.target(at, true, *mode).map(drop).map_err(fault()),
            Content::Tree => self.bind(at, at, Access::ReadOnly, step),
            Content::Ground => self.bind(at, at, Access::Writable, step),
            Content::Device { from } => self.bind(from, at, Access::Device, step),
            Content::Fresh { mode } => {
                mounts::memory(*mode).and_then(|new| self.mount(&new, at)).map_err(fault())
            }
            Content::Terminals => mounts::terminals().and_then(|new| self.mount(&new, at)).map_err(fault()),
            Content::Home(home) => self.home(at, home),
            Content::Etc(etc) => self.etc(at, etc),
            Content::File { source } => self.file(at, source, step),
            Content::Delivered { files } => self.deliver(at, files).map_err(fault()),
            Content::Cover => self.cover(at, step),
        }
    }

    fn link(&self, at: &Path, target: &Path) -> rustix::io::Result<()> {
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else { return Err(Errno::INVAL) };
        match symlinkat(target, self.target(parent, true, 0o755)?, name) {
            // Beneath a tree of the host's that has it already.
            Err(Errno::EXIST | Errno::ROFS) => Ok(()),
            result => result,
        }
    }

    /// Puts the host's `from` at `at`.
    fn bind(&mut self, from: &Path, at: &Path, access: Access, step: Step) -> Result<(), StepFault> {
        let fault = || StepFault::at::<Errno>(step, at.display().to_string());
        let source = mounts::open_beneath(self.host.as_fd(), from, mounts::LOOK).map_err(fault())?;
        let directory = is_directory(&source).map_err(fault())?;
        let tree =
            mounts::copy(source.as_fd(), access).map_err(StepFault::at(step, from.display().to_string()))?;
        let target = self.target(at, directory, 0o755).map_err(fault())?;
        mounts::put(tree.as_fd(), target.as_fd()).map_err(fault())?;
        self.foreign.push(at.to_owned());
        Ok(())
    }

    fn mount(&self, new: &OwnedFd, at: &Path) -> rustix::io::Result<()> {
        mounts::put(new.as_fd(), self.target(at, true, 0o755)?.as_fd())
    }

    /// Opens the place `at` of the view, and makes it where that is ours to do: in memory and in the home's layer.
    fn target(&self, at: &Path, directory: bool, mode: u32) -> rustix::io::Result<OwnedFd> {
        if self.foreign.iter().any(|foreign| at.starts_with(foreign)) {
            let kind = if directory { OFlags::DIRECTORY } else { OFlags::empty() };
            return mounts::open_beneath(self.base.as_fd(), at, mounts::LOOK | kind);
        }
        let mut names = mounts::names(at).ok_or(Errno::INVAL)?;
        let last = names.pop();
        let mut place = self.base.try_clone().map_err(|_| Errno::MFILE)?;
        for name in &names {
            place = self.directory(place.as_fd(), name, 0o755, at)?;
        }
        match last {
            None => Ok(place),
            Some(name) if directory => self.directory(place.as_fd(), &name, mode, at),
            Some(name) => match layer::write(place.as_fd(), &name, b"", 0o600) {
                Ok(()) | Err(Errno::EXIST) => {
                    openat(&place, name.as_c_str(), mounts::LOOK | OFlags::CLOEXEC, Mode::empty())
                }
                Err(error) => Err(error),
            },
        }
    }

    fn directory(
        &self,
        above: BorrowedFd<'_>,
        name: &CString,
        mode: u32,
        at: &Path,
    ) -> rustix::io::Result<OwnedFd> {
        if self.home.as_ref().is_some_and(|home| at.starts_with(home)) {
            // A kept layer may have anything here.
            return layer::directory(above, name, mode);
        }
        mounts::make_directory(above, name, mode)
    }

    /// Covers what the view has at `at`, if it has something there.
    fn cover(&self, at: &Path, step: Step) -> Result<(), StepFault> {
        let fault = || StepFault::at::<Errno>(step, at.display().to_string());
        let target = match mounts::open_beneath(self.base.as_fd(), at, mounts::LOOK) {
            Ok(target) => target,
            // A layer that has a link, a file or nothing in the way hides the host's as well.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(fault()(error)),
        };
        let nothing = c(if is_directory(&target).map_err(fault())? { EMPTY } else { NOTHING });
        let source = openat(&self.store, nothing.as_c_str(), mounts::LOOK | OFlags::CLOEXEC, Mode::empty());
        let nothing = mounts::copy(source.map_err(fault())?.as_fd(), Access::ReadOnly)
            .map_err(StepFault::at(step, at.display().to_string()))?;
        mounts::put(nothing.as_fd(), target.as_fd()).map_err(fault())
    }

    fn home(&mut self, at: &Path, home: &Home) -> Result<(), StepFault> {
        let fault = || StepFault::at::<Errno>(Step::Home, at.display().to_string());
        let lower =
            mounts::open_beneath(self.host.as_fd(), at, OFlags::PATH | OFlags::DIRECTORY).map_err(fault())?;
        let target = self.target(at, true, 0o755).map_err(fault())?;
        let kept = match &home.layer {
            Some(path) => layer::kept(self.host.as_fd(), path)?,
            None => None,
        };
        // A file system that cannot carry an overlay is no reason to fail; memory can.
        let mounted = match kept.map(|layer| kept_layered(&lower, layer, home)).transpose()?.flatten() {
            Some((mounted, lock)) => {
                let kept = mounted.try_clone().map_err(StepFault::at(Step::Home, "the layer"))?;
                self.built.remains.extend([lock, kept]);
                mounted
            }
            None => {
                let layer = layer::within(target.as_fd()).map_err(fault())?;
                layer::fill(&layer, lower.as_fd(), home)?;
                over(&lower, &layer, Directories::Layered)
                    .map_err(StepFault::at(Step::Home, at.display().to_string()))?
            }
        };
        mounts::put(mounted.as_fd(), target.as_fd()).map_err(fault())?;
        self.home = Some(at.to_owned());
        Ok(())
    }

    fn etc(&mut self, at: &Path, etc: &Etc) -> Result<(), StepFault> {
        let fault = |what: &Path| StepFault::at::<Errno>(Step::Etc, what.display().to_string());
        let lower = mounts::open_beneath(self.host.as_fd(), at, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(fault(at))?;
        let target = self.target(at, true, 0o755).map_err(fault(at))?;
        let layer = layer::within(target.as_fd()).map_err(fault(at))?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::chmodat(&target, "upper", mode, AtFlags::empty()).map_err(fault(at))?;
        for path in &etc.absent {
            layer::leave_out(layer.upper.as_fd(), lower.as_fd(), path).map_err(fault(path))?;
        }
        for (path, source) in &etc.files {
            let content = self.content(source, Step::Etc)?;
            let (parent, name) =
                layer::parent(layer.upper.as_fd(), lower.as_fd(), path, 0o755).map_err(fault(path))?;
            match unlinkat(&parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(fault(path)(error)),
            }
            layer::write(parent.as_fd(), &name, &content, 0o644).map_err(fault(path))?;
        }
        let mounted =
            over(&lower, &layer, Directories::ReadOnly).map_err(StepFault::at(Step::Etc, "/etc"))?;
        mounts::put(mounted.as_fd(), target.as_fd()).map_err(fault(at))?;
        mounts::read_only(mounted.as_fd()).map_err(StepFault::at(Step::Etc, "/etc"))?;
        self.foreign.push(at.to_owned());
        Ok(())
    }

    /// Memory that is ours to write, and over it the same, read-only.
    fn deliver(&mut self, at: &Path, files: &[Delivered]) -> rustix::io::Result<()> {
        let memory = mounts::memory(0o700)?;
        self.mount(&memory, at)?;
        delivered::write(memory.as_fd(), files)?;
        let copy = mounts::copy(memory.as_fd(), Access::ReadOnly)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        mounts::put(copy.as_fd(), memory.as_fd())?;
        self.foreign.push(at.to_owned());
        self.built.delivered = Some(memory);
        Ok(())
    }

    /// A read-only file of ours over one of the host's.
    fn file(&mut self, at: &Path, source: &Source, step: Step) -> Result<(), StepFault> {
        let fault = || StepFault::at::<Errno>(step, at.display().to_string());
        let content = self.content(source, step)?;
        let name = c(&self.stored.to_string());
        self.stored += 1;
        layer::write(self.store.as_fd(), &name, &content, 0o644).map_err(fault())?;
        let stored = openat(&self.store, name.as_c_str(), mounts::LOOK | OFlags::CLOEXEC, Mode::empty());
        let copy = mounts::copy(stored.map_err(fault())?.as_fd(), Access::ReadOnly)
            .map_err(StepFault::at(step, at.display().to_string()))?;
        mounts::put(copy.as_fd(), self.target(at, false, 0o644).map_err(fault())?.as_fd()).map_err(fault())?;
        unlinkat(&self.store, name.as_c_str(), AtFlags::empty()).map_err(fault())
    }

    fn content(&mut self, source: &Source, step: Step) -> Result<Vec<u8>, StepFault> {
        Ok(match source {
            Source::Text { content } => content.0.clone(),
            Source::Copy { from } => self.read(from, step)?,
            Source::Bundle { from, extra } => trust::bundle(&self.read(from, step)?, &extra.0),
            Source::KeyStore { from, extra } => {
                if let Some((_, made)) = self.key_stores.iter().find(|(of, _)| of == source) {
                    return Ok(made.clone());
                }
                let host = if from.as_os_str().is_empty() { Vec::new() } else { self.read(from, step)? };
                let made = trust::key_store(&trust::bundle(&host, &extra.0));
                self.key_stores.push((source.clone(), made.clone()));
                made
            }
        })
    }

    fn read(&self, from: &RawPath, step: Step) -> Result<Vec<u8>, StepFault> {
        let fault = || from.display().to_string();
        let file = mounts::open_beneath(self.host.as_fd(), from, OFlags::RDONLY | OFlags::NOCTTY)
            .map_err(StepFault::at(step, fault()))?;
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(file), &mut content)
            .map_err(StepFault::at(step, fault()))?;
        Ok(content)
    }

    fn close(self) -> Result<Built, StepFault> {
        let fault = || StepFault::at::<Errno>(Step::Tree, STORE);
        // What is mounted from here stays, without a name.
        unlinkat(&self.store, EMPTY, AtFlags::REMOVEDIR).map_err(fault())?;
        unlinkat(&self.store, NOTHING, AtFlags::empty()).map_err(fault())?;
        unlinkat(&self.base, STORE, AtFlags::REMOVEDIR).map_err(fault())?;
        fchdir(&self.base).map_err(fault())?;
        Ok(self.built)
    }
}

/// An overlay of `lower` with a kept layer, and the lock on that; `None` where it cannot carry one.
fn kept_layered(lower: &OwnedFd, layer: Layer, home: &Home) -> Result<Option<(OwnedFd, OwnedFd)>, StepFault> {
    layer::fill(&layer, lower.as_fd(), home)?;
    let mounted = mounts::overlay(lower.as_fd(), layer.upper.as_fd(), layer.work.as_fd()).ok();
    Ok(mounted.zip(layer.lock.map(OwnedFd::from)))
}

/// An overlay of `lower` with a layer in memory, or what is the same to programs where something is mounted in `lower`.
fn over(lower: &OwnedFd, layer: &Layer, directories: Directories) -> std::io::Result<OwnedFd> {
    match mounts::overlay(lower.as_fd(), layer.upper.as_fd(), layer.work.as_fd()) {
        Err(Errno::INVAL) => {
            compose(lower.as_fd(), layer.upper.as_fd(), layer.work.as_fd(), directories)?;
            mounts::copy(layer.upper.as_fd(), Access::Writable)
        }
        mounted => Ok(mounted?),
    }
}

fn is_directory(place: &OwnedFd) -> rustix::io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(place)?.st_mode) == FileType::Directory)
}

fn step_of(content: &Content) -> Step {
    match content {
        Content::Ground => Step::WorkTree,
        Content::Home(_) => Step::Home,
        Content::Etc(_) | Content::File { .. } => Step::Etc,
        _ => Step::Tree,
    }
}

fn c(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

const STORE: &str = ".writ";
const EMPTY: &str = "empty";
const NOTHING: &str = "nothing";
