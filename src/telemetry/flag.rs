//! Envoy's response flags: why a request ended as it did, in two or three letters.

/// Envoy's `%RESPONSE_FLAGS%`, as far as this proxy raises them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Flag {
    /// Nothing went wrong in the proxy.
    #[default]
    None,
    /// No route matched.
    Nr,
    /// The route's cluster does not exist.
    Nc,
    /// No healthy endpoint.
    Uh,
    /// No connection to the endpoint could be made.
    Uf,
    /// A circuit breaker is open.
    Uo,
    /// The endpoint took longer than the route allows.
    Ut,
    /// The endpoint broke the connection off.
    Uc,
    /// The endpoint reset the stream.
    Ur,
    /// The endpoint spoke nonsense.
    Upe,
    /// All tries were used up.
    Urx,
    /// The caller spoke nonsense.
    Dpe,
    /// The caller went away.
    Dc,
    /// The caller sent nothing for too long.
    Si,
    /// The request took longer than it may.
    Dt,
    /// The proxy sheds load to protect itself.
    Om,
    /// A configured delay.
    Di,
    /// A configured fault.
    Fi,
    /// Rate limited.
    Rl,
    /// Refused by policy.
    Uaex,
    /// Dropped because its cluster says that it is overloaded.
    Do,
}

impl Flag {
    /// Envoy's words for it.
    pub fn long_name(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Nr => "NoRouteFound",
            Self::Nc => "NoClusterFound",
            Self::Uh => "NoHealthyUpstream",
            Self::Uf => "UpstreamConnectionFailure",
            Self::Uo => "UpstreamOverflow",
            Self::Ut => "UpstreamRequestTimeout",
            Self::Uc => "UpstreamConnectionTermination",
            Self::Ur => "UpstreamRemoteReset",
            Self::Upe => "UpstreamProtocolError",
            Self::Urx => "UpstreamRetryLimitExceeded",
            Self::Dpe => "DownstreamProtocolError",
            Self::Dc => "DownstreamConnectionTermination",
            Self::Si => "StreamIdleTimeout",
            Self::Dt => "DurationTimeout",
            Self::Om => "OverloadManagerTerminated",
            Self::Di => "DelayInjected",
            Self::Fi => "FaultInjected",
            Self::Rl => "RateLimited",
            Self::Uaex => "UnauthorizedExternalService",
            Self::Do => "DropOverload",
        }
    }

    /// As in logs and labels; `-` for none.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Nr => "NR",
            Self::Nc => "NC",
            Self::Uh => "UH",
            Self::Uf => "UF",
            Self::Uo => "UO",
            Self::Ut => "UT",
            Self::Uc => "UC",
            Self::Ur => "UR",
            Self::Upe => "UPE",
            Self::Urx => "URX",
            Self::Dpe => "DPE",
            Self::Dc => "DC",
            Self::Si => "SI",
            Self::Dt => "DT",
            Self::Om => "OM",
            Self::Di => "DI",
            Self::Fi => "FI",
            Self::Rl => "RL",
            Self::Uaex => "UAEX",
            Self::Do => "DO",
        }
    }
}
