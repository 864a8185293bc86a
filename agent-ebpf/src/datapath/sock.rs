//! Socket hooks: a connection is translated once, before its first packet; nothing is paid per packet.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval, bpf_sk_storage_delete,
        bpf_sk_storage_get,
    },
    programs::SockAddrContext,
};
use weir_abi::{
    Address, Backend, DatagramOrigin, DatagramPeer, ServiceEntry, SocketOrigin, Verdict,
    config::flags::OPT_OUTS,
    service::{flags, proto, scope},
};

use crate::{
    maps::{self, DATAGRAM_ORIGINS, OPT_OUT, SOCKET_ORIGINS},
    nat,
    select::{self, Chosen},
    service::{self, Lookup, NO_ENTRY},
    verdict, words,
};

/// The hook lets the system call go on.
const ALLOW: i32 = 1;
/// The hook ends the system call, with the error that was set.
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const ECONNREFUSED: i32 = 111;

/// Which of the context's address fields the hook may touch.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    /// `user_ip4`
    V4,
    /// `user_ip6`
    V6,
}

/// `connect(2)`: sends a TCP socket that asks for a service to a backend, or refuses it at once. So it does with UDP sockets
/// of the node itself; those of pods are translated packet by packet.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let sock = Sock(ctx.sock_addr);
    let Some(proto) = sock.translated_protocol(ctx) else {
        return ALLOW;
    };
    let addr = sock.address(family);
    let port_be = sock.port_be();
    match choose(ctx, addr, port_be, proto) {
        Ok(Some(backend)) => {
            sock.remember_origin(&addr, port_be, &backend);
            sock.send_to(family, &backend);
            ALLOW
        }
        Ok(None) => {
            sock.forget_origin();
            ALLOW
        }
        Err(Refused) => REFUSE,
    }
}

/// `sendto(2)` and `sendmsg(2)` of an unconnected UDP socket of the node itself.
#[inline(always)]
pub(crate) fn sendmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let sock = Sock(ctx.sock_addr);
    let Some(proto) = sock.translated_protocol(ctx) else {
        return ALLOW;
    };
    let addr = sock.address(family);
    let port_be = sock.port_be();
    match choose(ctx, addr, port_be, proto) {
        Ok(Some(backend)) => {
            sock.remember_datagram(ctx, &addr, port_be, &backend);
            sock.send_to(family, &backend);
            ALLOW
        }
        Ok(None) => ALLOW,
        Err(Refused) => REFUSE,
    }
}

/// `recvmsg(2)` of a UDP socket of the node itself: a datagram from a backend comes from the service that was asked.
#[inline(always)]
pub(crate) fn recvmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let sock = Sock(ctx.sock_addr);
    let peer = sock.datagram_peer(ctx, sock.address(family), sock.port_be());
    if let Some(origin) = DATAGRAM_ORIGINS.get_ptr(&peer) {
        // SAFETY: a live value of the map.
        let origin = unsafe { origin.read_volatile() };
        sock.set_address(family, origin.addr);
        sock.set_port_be(origin.port_be);
        return ALLOW;
    }
    getpeername(ctx, family)
}

/// The system call is refused; the error is set.
struct Refused;

/// Who is behind a socket.
enum Source {
    /// A pod.
    Pod,
    /// The node itself, by this address.
    Node(Address),
}

/// A backend for a destination; `None` when it is no service's.
#[inline(never)]
fn choose(
    ctx: &SockAddrContext,
    addr: Address,
    port_be: u16,
    proto: u8,
) -> Result<Option<Backend>, Refused> {
    let sock = Sock(ctx.sock_addr);
    let key = service::key(addr, port_be, proto, scope::INTERNAL);
    let mut entry = NO_ENTRY;
    match service::lookup(&key, &mut entry) {
        Lookup::Unknown => return Ok(None),
        Lookup::Unsealed => return Err(refuse_inconsistent(ctx, 0)),
        Lookup::Found => {}
    }
    match service::verdict(&entry) {
        Verdict::Translate => {}
        // An address that is also something else, as the node's own are: this port of it is no service's.
        Verdict::Pass => return Ok(None),
        Verdict::InconsistentTables => return Err(refuse_inconsistent(ctx, entry.id)),
        reason => return Err(refuse(reason, entry.id)),
    }
    if entry.flags & flags::SOURCE_RANGES != 0 {
        match sock.source(ctx, &addr) {
            // A pod's address is known when its packet comes: translated then, if it may come in.
            Source::Pod => return Ok(None),
            Source::Node(own) if nat::source_allowed(&entry, &own) => {}
            Source::Node(_) => return Err(refuse(Verdict::SourceDenied, entry.id)),
        }
    }
    let client = sock.client(ctx, &addr);
    let hash = sock.hash(ctx);
    let Some(Chosen { backend, .. }) = backend(&entry, &client, hash) else {
        return Err(refuse_inconsistent(ctx, entry.id));
    };
    verdict::count(Verdict::Translate, entry.id);
    Ok(Some(backend))
}

/// [`select::backend`] with a stack frame of its own.
#[inline(never)]
fn backend(entry: &ServiceEntry, client: &Address, hash: u32) -> Option<Chosen> {
    select::backend(entry, client, hash)
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
fn refuse(reason: Verdict, id: u32) -> Refused {
    verdict::count(reason, id);
    // SAFETY: the helper takes any errno.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    Refused
}

#[inline(never)]
fn refuse_inconsistent(ctx: &SockAddrContext, id: u32) -> Refused {
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
    /// Who asks, as far as session affinity can know before there is an address: the network namespace, and the family,
    /// which has backends of its own.
    #[inline(always)]
    fn client(&self, ctx: &SockAddrContext, wanted: &Address) -> Address {
        // SAFETY: the context is valid.
        let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        let family = u32::from(wanted.as_v4().is_none());
        Address::from_words([0, family, cookie as u32, (cookie >> 32) as u32])
    }

    /// Where the connection to `wanted` will come from.
    #[inline(always)]
    fn source(&self, ctx: &SockAddrContext, wanted: &Address) -> Source {
        let Some(config) = maps::config() else {
            return Source::Pod;
        };
        // SAFETY: a live field; user space changes it.
        let own = unsafe { (&raw const config.netns_cookie).read_volatile() };
        // SAFETY: the context is valid.
        if unsafe { bpf_get_netns_cookie(ctx.as_ptr()) } != own {
            return Source::Pod;
        }
        Source::Node(nat::own_address(wanted.as_v4().is_none(), config))
    }

    /// Different for each socket: there is no source port yet to make a flow's hash from.
    #[inline(always)]
    fn hash(&self, ctx: &SockAddrContext) -> u32 {
        // SAFETY: the context is valid.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        (cookie as u32).wrapping_mul(0x9e37_79b9)
    }

    /// The socket's protocol, if its address is to be translated here.
    ///
    /// Multipath TCP connects its first subflow through the hook, which is a socket of plain TCP.
    #[inline(always)]
    fn translated_protocol(&self, ctx: &SockAddrContext) -> Option<u8> {
        let proto = match (load!(self, type_), load!(self, protocol)) {
            (SOCK_STREAM, IPPROTO_TCP) => proto::TCP,
            (SOCK_DGRAM, IPPROTO_UDP) => proto::UDP,
            _ => return None,
        };
        let Some(config) = maps::config() else {
            return (proto == proto::TCP).then_some(proto);
        };
        // SAFETY: live fields; user space changes them.
        let (flags, own) = unsafe {
            (
                (&raw const config.flags).read_volatile(),
                (&raw const config.netns_cookie).read_volatile(),
            )
        };
        if proto == proto::TCP && flags & OPT_OUTS == 0 {
            return Some(proto);
        }
        // SAFETY: the context is valid.
        let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        let translated = match proto {
            proto::TCP => OPT_OUT.get_ptr(cookie).is_none(),
            // A pod's datagrams follow their backend packet by packet; the node's own pass no device of a pod.
            _ => cookie == own,
        };
        translated.then_some(proto)
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

    #[inline(never)]
    fn remember_origin(&self, addr: &Address, port_be: u16, backend: &Backend) {
        let mut origin = SocketOrigin {
            service_addr: *addr,
            backend_addr: backend.addr,
            service_port_be: port_be,
            backend_port_be: backend.port_be,
        };
        let stored = self.storage(&raw mut origin, BPF_SK_STORAGE_GET_F_CREATE);
        if !stored.is_null() {
            // SAFETY: as in `origin`. The value may be that of an earlier connect of this socket.
            words::copy(&origin, unsafe { &mut *stored });
        }
    }

    #[inline(never)]
    fn remember_datagram(
        &self,
        ctx: &SockAddrContext,
        addr: &Address,
        port_be: u16,
        backend: &Backend,
    ) {
        let peer = self.datagram_peer(ctx, backend.addr, backend.port_be);
        let origin = DatagramOrigin {
            addr: *addr,
            port_be,
            reserved: [0; 2],
        };
        // A full LRU map evicts; what still fails shows the application a backend's address.
        let _ = DATAGRAM_ORIGINS.insert(&peer, &origin, 0);
    }

    #[inline(always)]
    fn datagram_peer(&self, ctx: &SockAddrContext, addr: Address, port_be: u16) -> DatagramPeer {
        DatagramPeer {
            // SAFETY: the context is valid.
            cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
            addr,
            port_be,
            reserved: [0; 6],
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
