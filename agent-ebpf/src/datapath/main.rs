//! The `datapath` object: hook entries. What they do is in the modules, one concept each.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the attribute macros hand contexts over by value"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key passed by value is copied to a stack of 512 bytes, for each call"
)]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "a field of the context, or several of a map's value, through one pointer that is valid for one reason"
)]

mod deliver;
mod flow;
mod flows;
mod fragment;
mod icmp;
mod learned;
mod maps;
mod nat;
mod packet;
mod path;
mod plain;
mod reject;
mod rewrite;
mod sctp;
mod select;
mod service;
mod sock;
mod verdict;
mod words;
mod work;

use aya_ebpf::{
    macros::{cgroup_sock_addr, classifier},
    programs::{SockAddrContext, TcContext},
};

/// IPv4 sockets, before the first packet of a connection.
#[cgroup_sock_addr(connect4)]
fn weir_connect4(ctx: SockAddrContext) -> i32 {
    sock::connect(&ctx, sock::Family::V4)
}

/// IPv6 sockets, v4-mapped destinations included.
#[cgroup_sock_addr(connect6)]
fn weir_connect6(ctx: SockAddrContext) -> i32 {
    sock::connect(&ctx, sock::Family::V6)
}

/// Datagrams of unconnected IPv4 sockets.
#[cgroup_sock_addr(sendmsg4)]
fn weir_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::sendmsg(&ctx, sock::Family::V4)
}

/// Datagrams of unconnected IPv6 sockets.
#[cgroup_sock_addr(sendmsg6)]
fn weir_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::sendmsg(&ctx, sock::Family::V6)
}

/// Whom a datagram came from, IPv4 sockets.
#[cgroup_sock_addr(recvmsg4)]
fn weir_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::recvmsg(&ctx, sock::Family::V4)
}

/// Whom a datagram came from, IPv6 sockets.
#[cgroup_sock_addr(recvmsg6)]
fn weir_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::recvmsg(&ctx, sock::Family::V6)
}

/// The peer name that an application reads back, IPv4 sockets.
#[cgroup_sock_addr(getpeername4)]
fn weir_getpeername4(ctx: SockAddrContext) -> i32 {
    sock::getpeername(&ctx, sock::Family::V4)
}

/// The peer name that an application reads back, IPv6 sockets.
#[cgroup_sock_addr(getpeername6)]
fn weir_getpeername6(ctx: SockAddrContext) -> i32 {
    sock::getpeername(&ctx, sock::Family::V6)
}

/// What a pod sends.
#[classifier]
fn weir_from_pod(ctx: TcContext) -> i32 {
    path::from_pod(&ctx)
}

/// What a pod is sent by the node's stack.
#[classifier]
fn weir_to_pod(ctx: TcContext) -> i32 {
    path::to_pod(&ctx)
}

/// What an external device receives.
#[classifier]
fn weir_from_net(ctx: TcContext) -> i32 {
    path::from_net(&ctx)
}

/// What an external device sends.
#[classifier]
fn weir_to_net(ctx: TcContext) -> i32 {
    path::to_net(&ctx)
}

/// Socket storage is a helper for GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses an endless loop, so a panic that survives optimisation is found at load time.
    loop {}
}
