//! The `datapath` object: hook entries. What they do is in the modules, one concept each.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros of the hooks hand the context over by value"
)]

mod maps;
mod select;
mod service;
mod sock;
mod verdict;

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

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
