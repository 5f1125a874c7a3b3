//! Many entries of a hash map with one system call (`BPF_MAP_LOOKUP_BATCH` and its like, Linux 5.6): several times as fast
//! as one by one, and a walk that misses nothing that stays, which the kernel's *next key* can't say after a deletion.

#![expect(unsafe_code, reason = "aya has no wrapper for batches")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The kernel's numbers of the commands.
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;
const DELETE_BATCH: libc::c_long = 27;

/// Entries in one call, to begin with.
const CHUNK: u32 = 4096;

/// The attribute of batch commands (`union bpf_attr`, member `batch`).
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A place in a walk over a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The kernel's name of the next bucket; `None` at the beginning.
    place: Option<u32>,
    chunk: u32,
    ended: bool,
}

impl Default for Walk {
    fn default() -> Self {
        Self::by(CHUNK)
    }
}

impl Walk {
    /// A walk that takes so many entries at a time, or more where a bucket holds more.
    pub const fn by(chunk: u32) -> Self {
        Self {
            place: None,
            chunk,
            ended: false,
        }
    }

    /// Whether nothing is left.
    pub const fn is_over(&self) -> bool {
        self.ended
    }

    /// The next entries of a map with keys `K` and values `V`; none at the end.
    ///
    /// # Errors
    /// Those of the kernel.
    pub(super) fn next<K, V>(&mut self, map: impl AsFd) -> io::Result<Vec<(K, V)>>
    where
        K: FromBytes + IntoBytes + Copy,
        V: FromBytes + IntoBytes + Copy,
    {
        while !self.ended {
            let room = self.chunk as usize;
            let mut keys = vec![K::new_zeroed(); room];
            let mut values = vec![V::new_zeroed(); room];
            let mut next = 0u32;
            let attr = Attr {
                in_batch: self
                    .place
                    .as_ref()
                    .map_or(0, |place| std::ptr::from_ref(place) as u64),
                out_batch: std::ptr::from_mut(&mut next) as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: self.chunk,
                map_fd: u32::try_from(map.as_fd().as_raw_fd()).expect("a descriptor is not negative"),
                ..Attr::default()
            };
            let (found, result) = call(LOOKUP_BATCH, attr);
            match result.as_ref().map_err(|error| error.raw_os_error()) {
                Ok(()) => self.place = Some(next),
                Err(Some(libc::ENOENT)) => self.ended = true,
                // A bucket holds more than there is room for.
                Err(Some(libc::ENOSPC)) if self.chunk < u32::MAX / 2 => {
                    self.chunk *= 2;
                    continue;
                }
                Err(_) => return Err(result.expect_err("it is one")),
            }
            let found = (found as usize).min(room);
            return Ok(keys.into_iter().zip(values).take(found).collect());
        }
        Ok(Vec::new())
    }
}

/// Writes entries; the numbers of those for which there was no room.
///
/// # Errors
/// Those of the kernel that are not about room. Entries before one that it refuses are written.
pub(super) fn update<K, V>(map: impl AsFd, keys: &[K], values: &[V]) -> io::Result<Vec<usize>>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    debug_assert_eq!(keys.len(), values.len());
    let mut refused = Vec::new();
    let mut from = 0;
    while from < keys.len() {
        let (done, result) = some(UPDATE_BATCH, &map, &keys[from..], Some(&values[from..]));
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) => break,
            Err(Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)) => refused.push(from + done),
            // The kernel gave up in between, for a lock's sake.
            Err(Some(libc::EBUSY | libc::EAGAIN)) => {
                from += done;
                continue;
            }
            Err(_) => return Err(result.expect_err("it is one")),
        }
        from += done + 1;
    }
    Ok(refused)
}

/// Deletes entries; how many there were.
///
/// # Errors
/// Those of the kernel. Entries before one that it refuses are deleted.
pub(super) fn delete<K>(map: impl AsFd, keys: &[K]) -> io::Result<usize>
where
    K: IntoBytes + Immutable,
{
    let (mut from, mut deleted) = (0, 0);
    while from < keys.len() {
        let (done, result) = some::<K, ()>(DELETE_BATCH, &map, &keys[from..], None);
        deleted += done;
        match result.as_ref().map_err(io::Error::raw_os_error) {
            Ok(()) => break,
            Err(Some(libc::ENOENT)) => from += done + 1,
            Err(Some(libc::EBUSY | libc::EAGAIN)) => from += done,
            Err(_) => return Err(result.expect_err("it is one")),
        }
    }
    Ok(deleted)
}

/// One call: how many entries were done, and what stopped it.
fn some<K, V>(
    command: libc::c_long,
    map: impl AsFd,
    keys: &[K],
    values: Option<&[V]>,
) -> (usize, io::Result<()>)
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    let len = u32::try_from(keys.len()).unwrap_or(u32::MAX);
    let attr = Attr {
        keys: keys.as_ptr() as u64,
        values: values.map_or(0, |values| values.as_ptr() as u64),
        count: len,
        map_fd: u32::try_from(map.as_fd().as_raw_fd()).expect("a descriptor is not negative"),
        ..Attr::default()
    };
    let (done, result) = call(command, attr);
    // Where it fails before the first entry, kernels leave the number that was asked for.
    let done = if result.is_err() && done == len { 0 } else { done };
    (done as usize, result)
}

/// How many entries were found or done, and what the kernel says.
fn call(command: libc::c_long, mut attr: Attr) -> (u32, io::Result<()>) {
    // SAFETY: the attribute lies in our memory for the call; it names `count` keys and values in slices of that length
    // whose element types have the sizes that the map was checked for when it was opened (`shape`), and in a walk
    // two u32s for places. The kernel writes nothing else, and in updates and deletions nothing but the count.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(&mut attr),
            size_of::<Attr>(),
        )
    };
    let result = if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    };
    (attr.count, result)
}
