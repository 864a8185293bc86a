//! What a translated socket had asked for, for as long as it lives: `getpeername` answers with it.
//!
//! It is kept in a table by the socket's cookie, at half the price of storage in the socket itself, and taken out when the
//! socket is closed. A socket that finds the table full has it in its own storage. So have the sockets of whose end the kernel
//! tells nobody, as far as they can be told: the subflows of Multipath TCP. The other ones are those of the kernel's own clients
//! (NFS, Ceph), which are few and live long.

use aya_ebpf::{
    EbpfContext,
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_get_socket_cookie, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_to_mptcp_sock,
    },
    programs::{SockAddrContext, SockContext},
};
use weir_abi::{Address, Backend, SocketOrigin};

use crate::maps::{ORIGINS, SOCKET_ORIGINS};

/// The hook lets the system call go on.
const ALLOW: i32 = 1;

/// Whether the kernel tells sockets of Multipath TCP (Linux 5.19), set by who loads the programs: the verifier passes over what
/// cannot be reached.
#[unsafe(no_mangle)]
static TELLS_MULTIPATH: u8 = 0;

/// Notes that a socket asked for a service and is sent to a backend.
#[inline(never)]
pub(crate) fn remember(ctx: &SockAddrContext, addr: &Address, port_be: u16, backend: &Backend) {
    let mut origin = SocketOrigin {
        service_addr: *addr,
        backend_addr: backend.addr,
        service_port_be: port_be,
        backend_port_be: backend.port_be,
    };
    if !is_multipath(ctx) && ORIGINS.insert(&cookie(ctx), &origin, 0).is_ok() {
        return;
    }
    let stored = storage(ctx, &raw mut origin, BPF_SK_STORAGE_GET_F_CREATE);
    if !stored.is_null() {
        // SAFETY: not null, so it is this socket's live value. It may be that of an earlier connect of this socket.
        unsafe { *stored = origin };
    }
}

/// A socket that was translated once and now connects elsewhere is not translated any more.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    forget_cookie(cookie(ctx));
    if !storage(ctx, core::ptr::null_mut(), 0).is_null() {
        // SAFETY: the map and the socket are valid; that the value is gone by now is no error.
        unsafe { bpf_sk_storage_delete(STORAGE.cast_mut().cast(), socket(ctx)) };
    }
}

/// What the socket had asked for.
#[inline(always)]
pub(crate) fn of(ctx: &SockAddrContext) -> Option<SocketOrigin> {
    if let Some(origin) = ORIGINS.get_ptr(&cookie(ctx)) {
        // SAFETY: a live value, which only this socket's own calls replace.
        return Some(unsafe { *origin });
    }
    let origin = storage(ctx, core::ptr::null_mut(), 0);
    // SAFETY: not null, so it is this socket's live value.
    (!origin.is_null()).then(|| unsafe { *origin })
}

/// The socket is closed.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) -> i32 {
    // SAFETY: the context is valid.
    forget_cookie(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) });
    ALLOW
}

/// A lookup takes no lock: most sockets are in no such table.
#[inline(always)]
fn forget_cookie(cookie: u64) {
    if ORIGINS.get_ptr(&cookie).is_some() {
        let _ = ORIGINS.remove(&cookie);
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is valid.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Whether the socket is a subflow of Multipath TCP.
#[inline(always)]
fn is_multipath(ctx: &SockAddrContext) -> bool {
    // SAFETY: a live value, which the loader may have changed.
    let tells = unsafe { (&raw const TELLS_MULTIPATH).read_volatile() } != 0;
    // SAFETY: the context's socket is valid for the whole program.
    tells && unsafe { !bpf_skc_to_mptcp_sock(socket(ctx)).is_null() }
}

#[inline(always)]
fn socket(ctx: &SockAddrContext) -> *mut core::ffi::c_void {
    // SAFETY: the kernel hands a valid context to the hook; read once, as the verifier wants it.
    let sk = unsafe { (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() };
    sk.cast()
}

#[inline(always)]
fn storage(ctx: &SockAddrContext, initial: *mut SocketOrigin, flags: u64) -> *mut SocketOrigin {
    // SAFETY: the context's socket is valid for the whole program; `initial` is null or a live value.
    unsafe {
        bpf_sk_storage_get(
            STORAGE.cast_mut().cast(),
            socket(ctx),
            initial.cast(),
            flags,
        )
    }
    .cast()
}

/// The helpers take the map's own address.
const STORAGE: *const SkStorage<SocketOrigin> = &raw const SOCKET_ORIGINS;

const BPF_SK_STORAGE_GET_F_CREATE: u64 = aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE as u64;
