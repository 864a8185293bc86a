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
    /// Dropped: the source is in none of the service's `loadBalancerSourceRanges`.
    SourceDenied = 6,
    /// Reset: a connection through the packet path whose endpoint is gone.
    BackendGone = 7,
    /// Dropped: no masquerade port is left for that endpoint.
    MasqueradeExhausted = 8,
    /// Dropped: a fragment whose first one has not been seen, of a datagram to a service.
    FragmentUnknown = 9,
    /// Dropped: a packet to a service whose headers end early or make no sense.
    Malformed = 10,
    /// Dropped: the kernel refused to change the packet.
    TranslationFailed = 11,
}

impl Verdict {
    /// Every verdict, in the order of its number.
    pub const ALL: [Self; 12] = [
        Self::Pass,
        Self::Translate,
        Self::NoEndpoints,
        Self::NoLocalEndpoints,
        Self::UnknownPort,
        Self::InconsistentTables,
        Self::SourceDenied,
        Self::BackendGone,
        Self::MasqueradeExhausted,
        Self::FragmentUnknown,
        Self::Malformed,
        Self::TranslationFailed,
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
            6 => Some(Self::SourceDenied),
            7 => Some(Self::BackendGone),
            8 => Some(Self::MasqueradeExhausted),
            9 => Some(Self::FragmentUnknown),
            10 => Some(Self::Malformed),
            11 => Some(Self::TranslationFailed),
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
            Self::SourceDenied => "source_denied",
            Self::BackendGone => "backend_gone",
            Self::MasqueradeExhausted => "masquerade_exhausted",
            Self::FragmentUnknown => "fragment_unknown",
            Self::Malformed => "malformed",
            Self::TranslationFailed => "translation_failed",
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
