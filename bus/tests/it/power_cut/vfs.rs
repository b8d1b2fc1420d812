//! The file system under SQLite, which tells [`Disk`] of every change. A sync is told and not made: nobody cuts the power
//! of this machine.
//!
//! Files of the shared memory beside a log go past it: SQLite trusts nothing of them after a restart.

#![allow(unsafe_code, reason = "SQLite calls a file system through tables of C functions")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi;

use super::disk::Disk;

/// For who opens a file by the name of the file system.
pub(super) const NAME: &CStr = c"power-cut";

static DISK: Mutex<Disk> = Mutex::new(Disk::new());

/// The disk of this process.
pub(super) fn disk() -> MutexGuard<'static, Disk> {
    DISK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets SQLite know of it; `everywhere`: and use it for whatever this process opens from now on.
pub(super) fn register(everywhere: bool) {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: what is found is a file system of SQLite's own, which stays as long as the process, and so does the copy
        // of its table. The functions that are left in it do not look at the table that they are called with.
        let registered = unsafe {
            let below = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!below.is_null(), "SQLite has no file system");
            let size = size_of::<File>() + usize::try_from((*below).szOsFile).unwrap();
            let table = Box::leak(Box::new(ffi::sqlite3_vfs {
                szOsFile: c_int::try_from(size).unwrap(),
                pNext: ptr::null_mut(),
                zName: NAME.as_ptr(),
                pAppData: below.cast(),
                xOpen: Some(open),
                xDelete: Some(delete),
                ..*below
            }));
            ffi::sqlite3_vfs_register(table, c_int::from(everywhere))
        };
        assert_eq!(registered, ffi::SQLITE_OK);
    });
}

/// An open file. The one below lies in memory behind it.
#[repr(C)]
struct File {
    /// All that SQLite knows of it.
    base: ffi::sqlite3_file,
    below: *mut ffi::sqlite3_file,
    /// Made by a box; null for a temporary file, which nobody looks for after a cut.
    named: *mut Named,
}

struct Named {
    path: PathBuf,
    /// Its first sync is one of its directory too: SQLite's own file system does that for what it keeps beside a database.
    enters: bool,
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without memory maps, which would go past it.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shared_map),
    xShmLock: Some(shared_lock),
    xShmBarrier: Some(shared_barrier),
    xShmUnmap: Some(shared_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Calls a function of the file below.
macro_rules! below {
    ($file:ident, $method:ident $(, $argument:expr)*) => {{
        let below = (*$file.cast::<File>()).below;
        match (*(*below).pMethods).$method {
            Some(method) => method(below $(, $argument)*),
            None => ffi::SQLITE_IOERR,
        }
    }};
}

/// Functions that do no more than that.
macro_rules! passed_on {
    ($($name:ident = $method:ident($($argument:ident: $kind:ty),*);)*) => {
        $(
            unsafe extern "C" fn $name(file: *mut ffi::sqlite3_file, $($argument: $kind),*) -> c_int {
                // SAFETY: SQLite calls it with an open file of ours, and with what the one below expects.
                unsafe { below!(file, $method $(, $argument)*) }
            }
        )*
    };
}

passed_on!(
    read = xRead(to: *mut c_void, amount: c_int, at: ffi::sqlite3_int64);
    file_size = xFileSize(size: *mut ffi::sqlite3_int64);
    lock = xLock(level: c_int);
    unlock = xUnlock(level: c_int);
    check_reserved_lock = xCheckReservedLock(is_locked: *mut c_int);
    file_control = xFileControl(operation: c_int, argument: *mut c_void);
    sector_size = xSectorSize();
    device_characteristics = xDeviceCharacteristics();
    shared_map = xShmMap(page: c_int, size: c_int, extend: c_int, mapped: *mut *mut c_void);
    shared_lock = xShmLock(offset: c_int, count: c_int, flags: c_int);
    shared_unmap = xShmUnmap(is_to_be_removed: c_int);
);

unsafe extern "C" fn shared_barrier(file: *mut ffi::sqlite3_file) {
    // SAFETY: SQLite calls it with an open file of ours.
    unsafe {
        let below = (*file.cast::<File>()).below;
        if let Some(method) = (*(*below).pMethods).xShmBarrier {
            method(below);
        }
    }
}

/// # Safety
/// A text as SQLite makes them.
unsafe fn path_of(name: *const c_char) -> PathBuf {
    // SAFETY: as the caller says.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

/// # Safety
/// An open file of ours.
unsafe fn named<'a>(file: *mut ffi::sqlite3_file) -> Option<&'a mut Named> {
    // SAFETY: as the caller says; SQLite calls functions of a file one after another.
    unsafe { (*file.cast::<File>()).named.as_mut() }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    const BESIDE: c_int = ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL | ffi::SQLITE_OPEN_WAL;
    // SAFETY: SQLite gives as much memory as the table asks for, which is a file of ours and one of the file system below;
    // a name is a text that outlives the file, or null.
    unsafe {
        let ours = file.cast::<File>();
        let below = ours.add(1).cast::<ffi::sqlite3_file>();
        (*file).pMethods = ptr::null();
        (*below).pMethods = ptr::null();
        let is_temporary = name.is_null() || flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0;
        let path = (!is_temporary).then(|| path_of(name));
        let mut disk = disk();
        if let Some(path) = &path {
            disk.opening(path);
        }
        let vfs = (*vfs).pAppData.cast::<ffi::sqlite3_vfs>();
        let Some(open) = (*vfs).xOpen else { return ffi::SQLITE_IOERR };
        let opened = open(vfs, name, below, flags, out_flags);
        if (*below).pMethods.is_null() {
            return opened;
        }
        let named = path.map_or(ptr::null_mut(), |path| {
            disk.opened(&path);
            let enters = flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & BESIDE != 0;
            Box::into_raw(Box::new(Named { path, enters }))
        });
        ours.write(File { base: ffi::sqlite3_file { pMethods: &raw const METHODS }, below, named });
        opened
    }
}

unsafe extern "C" fn delete(vfs: *mut ffi::sqlite3_vfs, name: *const c_char, with_directory: c_int) -> c_int {
    // SAFETY: SQLite calls it with the table that was registered, and with a text.
    unsafe {
        let mut disk = disk();
        disk.changes();
        let vfs = (*vfs).pAppData.cast::<ffi::sqlite3_vfs>();
        let Some(delete) = (*vfs).xDelete else { return ffi::SQLITE_IOERR };
        let deleted = delete(vfs, name, 0);
        if deleted == ffi::SQLITE_OK {
            disk.removed(&path_of(name), with_directory != 0);
        }
        deleted
    }
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite calls it with an open file of ours, and never uses it again.
    unsafe {
        let closed = below!(file, xClose);
        let named = (*file.cast::<File>()).named;
        if !named.is_null() {
            drop(Box::from_raw(named));
        }
        closed
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    bytes: *const c_void,
    amount: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite calls it with an open file of ours, and so many bytes.
    unsafe {
        let mut disk = disk();
        if let Some(named) = named(file) {
            let (at, length) = (usize::try_from(at).unwrap(), usize::try_from(amount).unwrap());
            disk.changes();
            disk.written(&named.path, at, std::slice::from_raw_parts(bytes.cast::<u8>(), length));
        }
        below!(file, xWrite, bytes, amount, at)
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls it with an open file of ours.
    unsafe {
        let mut disk = disk();
        if let Some(named) = named(file) {
            disk.changes();
            disk.resized(&named.path, usize::try_from(length).unwrap());
        }
        below!(file, xTruncate, length)
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: SQLite calls it with an open file of ours.
    if let Some(named) = unsafe { named(file) } {
        let mut disk = disk();
        disk.changes();
        disk.synced(&named.path, std::mem::take(&mut named.enters));
    }
    ffi::SQLITE_OK
}
