//! Socket hooks: a connection is translated once, before its first packet; nothing is paid per packet.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    btf_maps::SkStorage,
    helpers::generated::{bpf_set_retval, bpf_sk_storage_delete, bpf_sk_storage_get},
    programs::SockAddrContext,
};
use weir_abi::{
    Address, Backend, SocketOrigin, Verdict,
    service::{proto, scope},
};

use crate::{
    maps::SOCKET_ORIGINS,
    select,
    service::{self, Lookup},
    verdict,
};

/// The hook lets the system call go on.
const ALLOW: i32 = 1;
/// The hook ends the system call, with the error that was set.
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const ECONNREFUSED: i32 = 111;

/// Which of the context's address fields the hook may touch.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    /// `user_ip4`
    V4,
    /// `user_ip6`
    V6,
}

/// `connect(2)`: sends a TCP socket that asks for a service to a backend, or refuses it at once.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let sock = Sock(ctx.sock_addr);
    if !sock.is_tcp() {
        return ALLOW;
    }
    let addr = sock.address(family);
    let port_be = sock.port_be();
    let key = service::key(addr, port_be, proto::TCP, scope::INTERNAL);

    let entry = match service::lookup(&key) {
        Lookup::Unknown => {
            sock.forget_origin();
            return ALLOW;
        }
        Lookup::Unsealed => return refuse_inconsistent(ctx, 0),
        Lookup::Found(entry) => entry,
    };
    match service::verdict(&entry) {
        Verdict::Translate => {}
        // No entry says that its frontend is none: whoever wrote it meant something else.
        Verdict::Pass | Verdict::InconsistentTables => return refuse_inconsistent(ctx, entry.id),
        reason => return refuse(reason, entry.id),
    }
    let Some(backend) = select::random(&entry) else {
        return refuse_inconsistent(ctx, entry.id);
    };
    sock.remember_origin(SocketOrigin {
        service_addr: addr,
        backend_addr: backend.addr,
        service_port_be: port_be,
        backend_port_be: backend.port_be,
    });
    sock.send_to(family, &backend);
    verdict::count(Verdict::Translate, entry.id);
    ALLOW
}

/// `getpeername(2)`: a translated socket's peer is the service that it asked for.
///
/// Except for Multipath TCP, where it is the backend: this hook is given the connection's own socket, `connect` its subflow's.
#[inline(always)]
pub(crate) fn getpeername(ctx: &SockAddrContext, family: Family) -> i32 {
    let sock = Sock(ctx.sock_addr);
    if let Some(origin) = sock.origin()
        && origin.backend_addr == sock.address(family)
        && origin.backend_port_be == sock.port_be()
    {
        sock.set_address(family, origin.service_addr);
        sock.set_port_be(origin.service_port_be);
    }
    ALLOW
}

#[inline(always)]
fn refuse(reason: Verdict, id: u32) -> i32 {
    verdict::count(reason, id);
    // SAFETY: the helper takes any errno.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(never)]
fn refuse_inconsistent(ctx: &SockAddrContext, id: u32) -> i32 {
    aya_log_ebpf::error!(
        ctx,
        "service tables are inconsistent (service port id {}, process {})",
        id,
        ctx.tgid()
    );
    refuse(Verdict::InconsistentTables, id)
}

/// The hook's context. Fields are read and written one by one, as the verifier wants them.
struct Sock(*mut bpf_sock_addr);

/// Reads one context field; volatile, so that no two reads are merged into one that the verifier refuses.
macro_rules! load {
    ($sock:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid context to the hook.
        unsafe { (&raw const (*$sock.0).$($field)+).read_volatile() }
    };
}

/// Writes one context field.
macro_rules! store {
    ($sock:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as for `load`; the hook may write addresses and ports.
        unsafe { (&raw mut (*$sock.0).$($field)+).write_volatile($value) }
    };
}

impl Sock {
    /// Multipath TCP connects its first subflow through the hook, which is a socket of plain TCP.
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        let protocol = load!(self, protocol);
        load!(self, type_) == SOCK_STREAM && protocol == IPPROTO_TCP
    }

    #[inline(always)]
    fn address(&self, family: Family) -> Address {
        match family {
            Family::V4 => Address::from_v4(load!(self, user_ip4).to_ne_bytes()),
            Family::V6 => Address::from_words([
                load!(self, user_ip6[0]),
                load!(self, user_ip6[1]),
                load!(self, user_ip6[2]),
                load!(self, user_ip6[3]),
            ]),
        }
    }

    #[inline(always)]
    fn set_address(&self, family: Family, addr: Address) {
        let words = addr.to_words();
        match family {
            Family::V4 => store!(self, words[3], user_ip4),
            Family::V6 => {
                store!(self, words[0], user_ip6[0]);
                store!(self, words[1], user_ip6[1]);
                store!(self, words[2], user_ip6[2]);
                store!(self, words[3], user_ip6[3]);
            }
        }
    }

    #[inline(always)]
    fn port_be(&self) -> u16 {
        load!(self, user_port) as u16
    }

    #[inline(always)]
    fn set_port_be(&self, port_be: u16) {
        store!(self, u32::from(port_be), user_port);
    }

    #[inline(always)]
    fn send_to(&self, family: Family, backend: &Backend) {
        self.set_address(family, backend.addr);
        self.set_port_be(backend.port_be);
    }

    #[inline(always)]
    fn origin(&self) -> Option<SocketOrigin> {
        let origin = self.storage(core::ptr::null_mut(), 0);
        // SAFETY: not null, so it is this socket's live value.
        (!origin.is_null()).then(|| unsafe { *origin })
    }

    #[inline(always)]
    fn remember_origin(&self, mut origin: SocketOrigin) {
        let stored = self.storage(&raw mut origin, BPF_SK_STORAGE_GET_F_CREATE);
        if !stored.is_null() {
            // SAFETY: as in `origin`. The value may be that of an earlier connect of this socket.
            unsafe { *stored = origin };
        }
    }

    /// A socket that was translated once and now connects elsewhere is not translated any more.
    #[inline(always)]
    fn forget_origin(&self) {
        if self.storage(core::ptr::null_mut(), 0).is_null() {
            return;
        }
        let sk = load!(self, __bindgen_anon_1.sk);
        // SAFETY: the map and the socket are valid; that the value is gone by now is no error.
        unsafe { bpf_sk_storage_delete(ORIGINS_MAP.cast_mut().cast(), sk.cast()) };
    }

    #[inline(always)]
    fn storage(&self, initial: *mut SocketOrigin, flags: u64) -> *mut SocketOrigin {
        let sk = load!(self, __bindgen_anon_1.sk);
        // SAFETY: the context's socket is valid for the whole program; `initial` is null or a live value.
        unsafe {
            bpf_sk_storage_get(
                ORIGINS_MAP.cast_mut().cast(),
                sk.cast(),
                initial.cast(),
                flags,
            )
        }
        .cast()
    }
}

/// The helpers take the map's own address.
const ORIGINS_MAP: *const SkStorage<SocketOrigin> = &raw const SOCKET_ORIGINS;

const BPF_SK_STORAGE_GET_F_CREATE: u64 = aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE as u64;
