// SPDX-License-Identifier: Apache-2.0
//! How does code run inside a network namespace?

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Arc,
    thread,
};

use rustix::{
    fs::fstatfs,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// The network namespace of the calling thread (`/proc/self` would be the main thread's).
const OWN: &str = "/proc/thread-self/ns/net";

/// What `statfs` says of namespace files (linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A handle that keeps a network namespace alive.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// The namespace that `path` (a bind mount as `ip netns` makes, or a file of `/proc/*/ns`) names.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::from_file(File::open(path)?)
    }

    /// The namespace that an open file is.
    ///
    /// # Errors
    ///
    /// The file is no namespace.
    pub fn from_file(file: File) -> io::Result<Self> {
        if fstatfs(&file)?.f_type != NSFS_MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "this file is no namespace",
            ));
        }
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Makes an empty namespace and names it `dir/name`, as `ip netns add` does.
    pub fn create(dir: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(name);
        File::create_new(&path)?;
        let namespace = on_thread(|| {
            // SAFETY: only the thread's network namespace changes; it shares its file descriptor
            // table with everybody as before.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET)? };
            mount_bind(OWN, &path)?;
            Self::current()
        });
        if namespace.is_err() {
            let _ = fs::remove_file(&path);
        }
        namespace
    }

    /// Takes the name `dir/name` away; the namespace goes when nobody uses it any more.
    pub fn remove(dir: &Path, name: &str) -> io::Result<()> {
        let path = dir.join(name);
        // A file that never became a mount point is what a crash between the two steps leaves.
        let _ = unmount(&path, UnmountFlags::DETACH);
        fs::remove_file(path)
    }

    /// Moves the calling thread into the namespace, for good: threads it starts are born there.
    pub fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Runs `action` inside the namespace, on a thread of its own.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            self.enter()?;
            action()
        })
    }

    /// Identity of the namespace: equal inodes are the same namespace.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Sets `net/` sysctl `key` (path with slashes, `ipv4/ip_forward`) of the namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        // /proc/sys/net is the network namespace of the thread that opens it.
        self.run(|| fs::write(Path::new("/proc/sys/net").join(key), value))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn on_thread<T: Send>(action: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, action)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
