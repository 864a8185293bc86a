//! The one enum of verdicts and drop reasons: the kernel's return value, the counter's index and the metric's label.

/// What became of a connection or packet, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verdict {
    /// Not addressed to a service: untouched.
    Pass = 0,
    /// Sent to a backend.
    Translate = 1,
    /// Rejected: the service has no usable endpoint anywhere.
    NoEndpoints = 2,
    /// Dropped: traffic policy is Local, and the usable endpoints are on other nodes.
    NoLocalEndpoints = 3,
    /// Rejected: the address is a service's, the port is not.
    UnknownPort = 4,
    /// Rejected: the tables did not fit together when they were read (a bug, or a foreign hand on the maps).
    InconsistentTables = 5,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 6] = [
        Self::Pass,
        Self::Translate,
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::UnknownPort,
        Self::InconsistentTables,
    ];

    /// The verdict of that number.
    #[inline(always)]
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Pass),
            1 => Some(Self::Translate),
            2 => Some(Self::NoEndpoints),
            3 => Some(Self::NoLocalEndpoints),
            4 => Some(Self::UnknownPort),
            5 => Some(Self::InconsistentTables),
            _ => None,
        }
    }

    /// The name in metrics, events and JSON.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Translate => "translate",
            Self::NoEndpoints => "no_endpoints",
            Self::NoLocalEndpoints => "no_local_endpoints",
            Self::UnknownPort => "unknown_port",
            Self::InconsistentTables => "inconsistent_tables",
        }
    }
}

const _: () = {
    let mut number = 0;
    while number < Verdict::ALL.len() {
        assert!(Verdict::ALL[number] as usize == number);
        number += 1;
    }
};
