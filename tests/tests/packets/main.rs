//! Packets in, packets out: every program of the packet path in the kernel (`BPF_PROG_TEST_RUN`), with tables of its own.
//!
//! A test writes tables down, says which packet goes in and which is to come out; frames are compared byte for byte,
//! checksums included. Needs root; each test has a network namespace of its own, in which nothing is ever sent.

mod affinity;
mod checksum;
mod cluster_ip;
mod conversations;
mod endings;
mod errors;
mod flows;
mod fragments;
mod frame;
mod headers;
mod hostile;
mod outside;
mod place;
mod reject;
mod rig;
mod service;
