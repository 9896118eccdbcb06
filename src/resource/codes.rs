//! Codes of findings: Istio's where one fits, else ours. Stable, because scripts and
//! suppressions name them. [`ALL`] says of each what it is called and means.

use crate::mesh::Severity;

/// The text is no YAML or JSON.
pub const SYNTAX: &str = "MSH0001";
/// No mesh and no cluster has this kind.
pub const UNKNOWN_KIND: &str = "MSH0002";
/// A known kind, field or value that changes routing or security and is not honoured.
pub const NOT_HONOURED: &str = "MSH0003";
/// A known kind, field or value that is left out without harm.
pub const IGNORED: &str = "MSH0004";
/// One object is written twice.
pub const DUPLICATE: &str = "MSH0005";
/// Two services claim one address.
pub const ADDRESS_CONFLICT: &str = "MSH0006";
/// Weights do not sum to 100.
pub const WEIGHT_SUM: &str = "MSH0007";
/// A rule names a host that is no service of the mesh.
pub const UNKNOWN_ROUTE_HOST: &str = "MSH0008";
/// Two objects say what stands behind one host.
pub const HOST_CONFLICT: &str = "MSH0009";
/// A Gateway or a GatewayClass that nobody here serves.
pub const UNKNOWN_CLASS: &str = "MSH0301";
/// A reference into another namespace that no ReferenceGrant permits.
pub const NOT_PERMITTED: &str = "MSH0302";
/// A reference to a kind of object that is not possible there.
pub const INVALID_REFERENCE_KIND: &str = "MSH0303";
/// A route that a parent of its does not take.
pub const NOT_ATTACHED: &str = "MSH0304";
/// A listener that is not served.
pub const LISTENER_INVALID: &str = "MSH0305";
/// Rules that others stand before.
pub const OVERRIDDEN: &str = "MSH0306";
/// A Gateway or a GatewayClass that asks for what there is none of here.
pub const NOT_ACCEPTED: &str = "MSH0310";
/// An address that none of the proxies of a Gateway has.
pub const ADDRESS_NOT_USABLE: &str = "MSH0311";
/// Callers of a listener need no good certificate.
pub const INSECURE_CALLERS: &str = "MSH0312";
/// Targets of one rule for bytes that forward proxies are asked for in several ways.
pub const UNEQUAL_TUNNELS: &str = "MSH0330";
/// A Secret for calls that only gateways have.
pub const CREDENTIAL_OF_GATEWAYS: &str = "MSH0331";
/// A policy whose target has an older one.
pub const POLICY_CONFLICT: &str = "MSH0350";
/// A policy that leaves another nothing to do.
pub const POLICY_WITHOUT_EFFECT: &str = "MSH0501";
/// A policy about requests, for what takes none.
pub const POLICY_WITHOUT_REQUESTS: &str = "MSH0502";
/// A policy that cannot be in force everywhere where it is meant.
pub const POLICY_IN_PART: &str = "MSH0320";
/// Two Ingresses say something different of one path, or of one host's certificate.
pub const INGRESS_CONFLICT: &str = "MSH0401";
/// An Ingress that no proxy of the mesh serves.
pub const NOT_SERVED: &str = "MSH0402";
/// What other rules for the same calls go before.
pub const OVERRULED: &str = "MSH0403";
/// A path of an Ingress whose type leaves open what it means, and that is taken for the whole path.
pub const INGRESS_PATH: &str = "MSH0404";
/// A policy asks somebody who cannot be asked.
pub const PROVIDER_UNKNOWN: &str = "MSH0510";
/// Somebody who lets pass what it does not answer to.
pub const PROVIDER_FAILS_OPEN: &str = "MSH0513";
/// Telemetry names somebody who gets nothing.
pub const TELEMETRY_PROVIDER: &str = "IST0157";
/// Keys of an issuer that are fetched without TLS.
pub const KEYS_UNPROTECTED: &str = "MSH0530";
/// Keys of an issuer that verify no tokens here.
pub const KEYS_SKIPPED: &str = "MSH0531";
/// An old form that is read in its modern meaning.
pub const DEPRECATED: &str = "IST0002";
/// A reference to something that does not exist.
pub const MISSING_REFERENCE: &str = "IST0101";
/// Not what the kind's schema says.
pub const SCHEMA: &str = "IST0106";
/// Two Sidecars for all workloads of a namespace.
pub const SEVERAL_SIDECARS: &str = "IST0111";
/// Two VirtualServices for one host.
pub const DUPLICATE_HOST: &str = "IST0109";
/// A destination without a port, on a service with several.
pub const PORT_NEEDED: &str = "IST0112";
/// A condition that no request fulfils which gets to it.
pub const INEFFECTIVE_MATCH: &str = "IST0131";
/// TLS to a service whose policy does not say whom it believes.
pub const UNVERIFIED_DESTINATION: &str = "IST0128";
/// As [`UNVERIFIED_DESTINATION`], for a port of it.
pub const UNVERIFIED_PORT: &str = "IST0129";
/// A rule for a host that its gateway does not serve.
pub const GATEWAY_NOT_FOUND: &str = "IST0132";
/// Of two rules for one host the later has no effect.
pub const SCHEMA_WARNING: &str = "IST0133";
/// Two containers on one port.
pub const PORT_CONFLICT: &str = "IST0137";
/// A DestinationRule for a host that is no service.
pub const UNKNOWN_DESTINATION_HOST: &str = "IST0174";

/// What a code is called and means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Such as `IST0101`.
    pub code: &'static str,
    /// Istio's name where the code is Istio's.
    pub name: &'static str,
    /// How bad it is at worst.
    pub severity: Severity,
    /// What was found, in one sentence without a full stop.
    pub about: &'static str,
    /// What to do about it.
    pub help: &'static str,
    /// `apply --force` goes over it: what it is about fails closed, and works once the missing part comes.
    pub forced: bool,
}

const fn code(
    severity: Severity,
    code: &'static str,
    name: &'static str,
    about: &'static str,
    help: &'static str,
) -> Code {
    Code {
        code,
        name,
        severity,
        about,
        help,
        forced: false,
    }
}

/// An error about a reference: see [`Code::forced`].
const fn forced(code: Code) -> Code {
    Code {
        forced: true,
        ..code
    }
}

/// Every code that a finding may carry, in the order of `analyze --list-analyzers`.
pub const ALL: &[Code] = &[
    code(
        Severity::Warning,
        DEPRECATED,
        "Deprecated",
        "an old form that is read in its modern meaning",
        "Write the modern form that the finding names.",
    ),
    forced(code(
        Severity::Error,
        MISSING_REFERENCE,
        "ReferencedResourceNotFound",
        "a reference to something that does not exist",
        "Correct the name, or apply what is missing first. Until it exists, what is sent there is answered 503.",
    )),
    code(
        Severity::Info,
        "IST0103",
        "PodMissingProxy",
        "an instance has no proxy of the mesh, so calls to it are plaintext",
        "Inject a sidecar with `meshctl inject`, or run the pod with `meshctl up`.",
    ),
    code(
        Severity::Error,
        SCHEMA,
        "SchemaValidationError",
        "a field or value that the kind's schema does not have",
        "Write it as the finding's hint says.",
    ),
    code(
        Severity::Warning,
        DUPLICATE_HOST,
        "ConflictingMeshGatewayVirtualServiceHosts",
        "two VirtualServices have routes for one host",
        "Put all routes of a host into one VirtualService.",
    ),
    code(
        Severity::Warning,
        "IST0110",
        "ConflictingSidecarWorkloadSelectors",
        "two Sidecars choose one workload",
        "Let each workload be chosen by one of them.",
    ),
    code(
        Severity::Error,
        SEVERAL_SIDECARS,
        "MultipleSidecarsWithoutWorkloadSelectors",
        "two Sidecars are for all workloads of a namespace",
        "Leave one of them, or give the others a workloadSelector.",
    ),
    forced(code(
        Severity::Error,
        PORT_NEEDED,
        "VirtualServiceDestinationPortSelectorRequired",
        "a destination says no port, and its service has several",
        "Name the port: `port: {number: …}`. Without it the port of the request is taken.",
    )),
    code(
        Severity::Warning,
        "IST0116",
        "DeploymentAssociatedToMultipleServices",
        "two services lead to one container port and disagree about its protocol",
        "Give both ports the same protocol, by name or appProtocol.",
    ),
    code(
        Severity::Warning,
        "IST0127",
        "NoMatchingWorkloadsFound",
        "a selector chooses no workload, or none that is healthy",
        "Give a workload the labels, or correct the selector. Until then calls are answered 503.",
    ),
    code(
        Severity::Warning,
        UNVERIFIED_DESTINATION,
        "NoServerCertificateVerificationDestinationLevel",
        "a policy asks for TLS to a service and does not say whom it believes",
        "Write caCertificates, or credentialName.",
    ),
    code(
        Severity::Warning,
        UNVERIFIED_PORT,
        "NoServerCertificateVerificationPortLevel",
        "a policy asks for TLS to a port and does not say whom it believes",
        "Write caCertificates, or credentialName.",
    ),
    code(
        Severity::Warning,
        "IST0130",
        "VirtualServiceUnreachableRule",
        "no request reaches a rule, because an earlier one takes all of them",
        "The first match wins: put the narrower rule first, or remove it.",
    ),
    code(
        Severity::Warning,
        INEFFECTIVE_MATCH,
        "VirtualServiceIneffectiveMatch",
        "a condition that no request fulfils which gets to it",
        "Remove it, or put it in front of what takes its requests.",
    ),
    code(
        Severity::Warning,
        GATEWAY_NOT_FOUND,
        "VirtualServiceHostNotFoundInGateway",
        "a rule is for a gateway that does not exist here",
        "Correct the gateway's name, or add mesh to the gateways for calls inside the mesh.",
    ),
    code(
        Severity::Warning,
        SCHEMA_WARNING,
        "SchemaWarning",
        "of two rules for one thing the later has no effect",
        "Put both into one object.",
    ),
    code(
        Severity::Warning,
        PORT_CONFLICT,
        "DeploymentConflictingPorts",
        "two containers of a pod have one port",
        "Give each container a port of its own.",
    ),
    code(
        Severity::Warning,
        TELEMETRY_PROVIDER,
        "InvalidTelemetryProvider",
        "a Telemetry, or defaultProviders of the MeshConfig, names a provider that gets nothing",
        "Write the provider into extensionProviders of the MeshConfig, with a service and a port that there are.",
    ),
    code(
        Severity::Warning,
        "IST0173",
        "DestinationRuleSubsetNotSelectPods",
        "a subset chooses no instance",
        "Give instances the subset's labels, or correct them. Requests that are sent there are answered 503.",
    ),
    code(
        Severity::Warning,
        UNKNOWN_DESTINATION_HOST,
        "UnknownDestinationRuleHost",
        "a DestinationRule is for a host that is no service of the mesh, and has no effect",
        "Correct the host, or apply its Service or ServiceEntry.",
    ),
    code(
        Severity::Error,
        SYNTAX,
        "Syntax",
        "the text is no YAML or JSON",
        "Correct it at the line and column of the finding.",
    ),
    code(
        Severity::Error,
        UNKNOWN_KIND,
        "UnknownKind",
        "no mesh and no cluster has this kind",
        "Correct kind and apiVersion.",
    ),
    code(
        Severity::Error,
        NOT_HONOURED,
        "NotHonoured",
        "a known kind, field or value that changes routing or security and is not honoured",
        "Use what the finding's hint names in its place, or remove it.",
    ),
    code(
        Severity::Warning,
        IGNORED,
        "Ignored",
        "a known kind, field or value that only tunes, and has no effect",
        "Remove it, or live without its effect.",
    ),
    code(
        Severity::Error,
        DUPLICATE,
        "Duplicate",
        "one object is written twice",
        "Remove one of them, or give it another name.",
    ),
    code(
        Severity::Error,
        ADDRESS_CONFLICT,
        "AddressConflict",
        "two services claim one address",
        "Remove the address from one of them, and the mesh gives it another.",
    ),
    code(
        Severity::Warning,
        WEIGHT_SUM,
        "WeightSum",
        "the weights of a route do not sum to 100",
        "Shares are parts of their sum; write weights that sum to 100 if percent is meant.",
    ),
    code(
        Severity::Warning,
        UNKNOWN_ROUTE_HOST,
        "UnknownRouteHost",
        "a rule names a host that is no service of the mesh",
        "Correct the host, or apply its Service or ServiceEntry.",
    ),
    code(
        Severity::Warning,
        HOST_CONFLICT,
        "HostConflict",
        "two objects say what stands behind one host",
        "Remove the host from one of them.",
    ),
    code(
        Severity::Warning,
        UNKNOWN_CLASS,
        "UnknownGatewayClass",
        "a Gateway or a GatewayClass that nobody here serves",
        "Write gatewayClassName: meshctl, or a GatewayClass with controllerName: meshctl.dev/gateway-controller.",
    ),
    forced(code(
        Severity::Error,
        NOT_PERMITTED,
        "ReferenceNotPermitted",
        "a reference into another namespace that no ReferenceGrant permits",
        "Write a ReferenceGrant there. Until then, what is sent there is answered 500.",
    )),
    forced(code(
        Severity::Error,
        INVALID_REFERENCE_KIND,
        "InvalidReferenceKind",
        "a reference to a kind of object that is not possible there",
        "Name an object of a kind that is. Until then, what is sent there is answered 500.",
    )),
    code(
        Severity::Warning,
        NOT_ATTACHED,
        "RouteNotAttached",
        "a parent of a route does not take it, so it has no effect there",
        "Correct parentRefs and hostnames, or allowedRoutes of the listener.",
    ),
    code(
        Severity::Warning,
        LISTENER_INVALID,
        "ListenerNotServed",
        "a listener that is not served",
        "Give it a protocol that is served, a port and a hostname of its own, and a certificate.",
    ),
    code(
        Severity::Warning,
        OVERRIDDEN,
        "RulesOverridden",
        "routes of a Service stand before the rules of a VirtualService for its host",
        "Write the rules as HTTPRoutes, or remove the routes.",
    ),
    code(
        Severity::Error,
        UNEQUAL_TUNNELS,
        "UnequalTunnels",
        "targets of one rule for bytes that are asked for different tunnels, or only some of them for one",
        "Give the targets the same tunnel in their DestinationRules, or a rule each.",
    ),
    code(
        Severity::Info,
        CREDENTIAL_OF_GATEWAYS,
        "CredentialOfGateways",
        "a rule whose Secret gateways have and sidecars do not, which call without its TLS",
        "Let sidecars call through a gateway, or choose those that have the Secret by workloadSelector.",
    ),
    code(
        Severity::Warning,
        NOT_ACCEPTED,
        "GatewayNotAccepted",
        "a Gateway or a GatewayClass that asks for what there is none of here, and so is not served",
        "Remove what the finding names.",
    ),
    code(
        Severity::Warning,
        ADDRESS_NOT_USABLE,
        "AddressNotUsable",
        "a Gateway asks for an address that none of its proxies has",
        "Start a proxy for it there: `meshctl proxy --gateway NAME --address ADDRESS`, or remove the address.",
    ),
    code(
        Severity::Warning,
        INSECURE_CALLERS,
        "InsecureCallers",
        "callers of a listener are let in without a certificate that is good",
        "Write mode: AllowValidOnly once every caller has one.",
    ),
    code(
        Severity::Warning,
        POLICY_CONFLICT,
        "PolicyConflict",
        "a policy for a target that has an older one, which it stands behind",
        "Remove one of both, or write another sectionName.",
    ),
    code(
        Severity::Warning,
        INGRESS_CONFLICT,
        "IngressConflict",
        "two Ingresses say something different of one path, or of one host's certificate",
        "Remove it from one of them: the older one is in force.",
    ),
    code(
        Severity::Warning,
        NOT_SERVED,
        "IngressNotServed",
        "an Ingress of a class that is another controller's, or nobody's",
        "Name a class that the mesh serves, such as ingressClassName: meshctl, or leave it to its controller.",
    ),
    code(
        Severity::Warning,
        OVERRULED,
        "Overruled",
        "other rules for the same calls go before these, which have no effect",
        "Keep one of the two.",
    ),
    code(
        Severity::Info,
        INGRESS_PATH,
        "IngressPathExact",
        "a path of type ImplementationSpecific is taken for the whole path, as Istio does",
        "Write pathType: Prefix for what is below it too, or pathType: Exact.",
    ),
    code(
        Severity::Warning,
        "MSH0020",
        "NoTargetPort",
        "a port of a service leads to a named container port that no instance has",
        "Name the container port, or target its number.",
    ),
    code(
        Severity::Warning,
        POLICY_WITHOUT_EFFECT,
        "PolicyWithoutEffect",
        "two policies of one kind are for the same, and only the older is in force",
        "Put both into one policy, or give one of them a narrower selector.",
    ),
    code(
        Severity::Warning,
        POLICY_WITHOUT_REQUESTS,
        "PolicyWithoutRequests",
        "a policy about requests is for a service or gateway that takes none",
        "Name a port of it http, http2 or grpc, or let the policy be for another.",
    ),
    code(
        Severity::Warning,
        "MSH0503",
        "RuleOfRequests",
        "a rule about requests is for a port that carries bytes, where it never holds",
        "Write a rule of its own for that port, or name the port http.",
    ),
    code(
        Severity::Warning,
        POLICY_IN_PART,
        "PolicyInPart",
        "answers of one listener would have to be compressed in several ways",
        "Write the same fields into the policies for the Gateway and for its routes.",
    ),
    forced(code(
        Severity::Error,
        PROVIDER_UNKNOWN,
        "ProviderUnknown",
        "a CUSTOM policy names a provider that cannot be asked, so whatever its rules hold for is refused",
        "Write the provider into extensionProviders of the MeshConfig, with a service and a port that there are.",
    )),
    code(
        Severity::Warning,
        "MSH0511",
        "SeveralProviders",
        "CUSTOM policies for one workload name several providers, so whatever their rules hold for is refused",
        "Name one provider in all policies that are for a workload.",
    ),
    code(
        Severity::Warning,
        "MSH0512",
        "ProviderNotForBytes",
        "a CUSTOM policy is for a port that carries bytes, where nobody is asked by HTTP and what its rules hold for is refused",
        "Name a provider with envoyExtAuthzGrpc, name the port http if it speaks HTTP, or say in the rules, with ports, which it is for.",
    ),
    code(
        Severity::Warning,
        PROVIDER_FAILS_OPEN,
        "ProviderFailsOpen",
        "whatever a provider is asked about passes while it does not answer",
        "Leave failOpen out, and let the provider run more than once.",
    ),
    code(
        Severity::Warning,
        "MSH0514",
        "ProviderAsksItself",
        "a CUSTOM policy is for the workload of its own provider, which asks itself before it answers",
        "Choose the workloads that the policy is for, and leave out the provider's.",
    ),
    code(
        Severity::Warning,
        KEYS_UNPROTECTED,
        "KeysUnprotected",
        "the keys by which tokens are believed are fetched without TLS",
        "Name them by an https URL, or write them into the rule.",
    ),
    code(
        Severity::Warning,
        KEYS_SKIPPED,
        "KeysSkipped",
        "a key set has keys that verify no tokens: for another use, of another kind, or too short",
        "Remove them, or replace them by keys of RSA (2048 bits and more), P-256, P-384, P-521 or Ed25519.",
    ),
    code(
        Severity::Warning,
        "IST0149",
        "JwtClaimBasedRoutingWithoutRequestAuthN",
        "a route goes by claims of a token where no token is looked at, so its condition never holds",
        "Write a RequestAuthentication in the gateway's namespace whose selector chooses it.",
    ),
];

/// What is known of `code`.
pub fn find(code: &str) -> Option<&'static Code> {
    ALL.iter().find(|known| known.code == code)
}

#[cfg(test)]
mod tests;
