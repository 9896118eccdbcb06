//! What is found of a token, in the words of Envoy's answers.

/// Why a request's token is not taken. Texts are Envoy's where Envoy has the case; callers and log
/// processors know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Status {
    /// There is no token.
    #[error("Jwt is missing")]
    Missing,
    /// Its time begins later (`nbf`, or it was issued in the future).
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// Its time is over (`exp`).
    #[error("Jwt is expired")]
    Expired,
    /// Not three parts.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    BadFormat,
    /// More than [`super::MAX_TOKEN`].
    #[error("Jwt is too large")]
    TooLarge,
    /// The header is no base64url.
    #[error("Jwt header is an invalid Base64url encoded")]
    HeaderBase64,
    /// The header is no object, or has a name twice.
    #[error("Jwt header is an invalid JSON")]
    HeaderJson,
    /// There is no algorithm.
    #[error("Jwt header [alg] field is required and must be a string")]
    HeaderAlg,
    /// The algorithm is none of ours.
    #[error("Jwt header [alg] is not supported")]
    HeaderAlgUnsupported,
    /// `kid` is no text.
    #[error("Jwt header [kid] field is not a string")]
    HeaderKid,
    /// The header asks for something that must be understood.
    #[error("Jwt header [crit] is not supported")]
    HeaderCrit,
    /// The payload is no base64url.
    #[error("Jwt payload is an invalid Base64url encoded")]
    PayloadBase64,
    /// The payload is no object, or has a name twice.
    #[error("Jwt payload is an invalid JSON")]
    PayloadJson,
    /// `iss` is no text.
    #[error("Jwt payload [iss] field is not a string")]
    Issuer,
    /// `sub` is no text.
    #[error("Jwt payload [sub] field is not a string")]
    Subject,
    /// `jti` is no text.
    #[error("Jwt payload [jti] field is not a string")]
    Id,
    /// `aud` is neither a text nor a list of texts.
    #[error("Jwt payload [aud] field is not a string or string list")]
    Audience,
    /// `iat` is no number.
    #[error("Jwt payload [iat] field is not an integer")]
    IssuedAt,
    /// `iat` is no time.
    #[error("Jwt payload [iat] field is not a positive 64 bit integer")]
    IssuedAtRange,
    /// `nbf` is no number.
    #[error("Jwt payload [nbf] field is not an integer")]
    NotBefore,
    /// `nbf` is no time.
    #[error("Jwt payload [nbf] field is not a positive 64 bit integer")]
    NotBeforeRange,
    /// `exp` is no number.
    #[error("Jwt payload [exp] field is not an integer")]
    Expiry,
    /// `exp` is no time.
    #[error("Jwt payload [exp] field is not a positive 64 bit integer")]
    ExpiryRange,
    /// The signature is no base64url.
    #[error("Jwt signature is an invalid Base64url encoded")]
    SignatureBase64,
    /// Nobody whose tokens are taken there issued it.
    #[error("Jwt issuer is not configured")]
    UnknownIssuer,
    /// It is for others.
    #[error("Audiences in Jwt are not allowed")]
    AudienceNotAllowed,
    /// None of the keys made the signature.
    #[error("Jwt verification fails")]
    Verification,
    /// No key is known of the issuer.
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
    /// No key has this `kid`, or is for this algorithm.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    NoSuchKey,
}

impl Status {
    /// Every one.
    pub const ALL: [Self; 29] = [
        Self::Missing,
        Self::NotYetValid,
        Self::Expired,
        Self::BadFormat,
        Self::TooLarge,
        Self::HeaderBase64,
        Self::HeaderJson,
        Self::HeaderAlg,
        Self::HeaderAlgUnsupported,
        Self::HeaderKid,
        Self::HeaderCrit,
        Self::PayloadBase64,
        Self::PayloadJson,
        Self::Issuer,
        Self::Subject,
        Self::Id,
        Self::Audience,
        Self::IssuedAt,
        Self::IssuedAtRange,
        Self::NotBefore,
        Self::NotBeforeRange,
        Self::Expiry,
        Self::ExpiryRange,
        Self::SignatureBase64,
        Self::UnknownIssuer,
        Self::AudienceNotAllowed,
        Self::Verification,
        Self::NoKeys,
        Self::NoSuchKey,
    ];

    /// Its place in [`Status::ALL`].
    pub fn number(self) -> usize {
        let mut all = Self::ALL.iter();
        all.position(|one| *one == self).unwrap_or_default()
    }

    /// The body of the answer.
    pub fn text(self) -> &'static str {
        self.pair().0
    }

    /// Envoy's `response_code_details`.
    pub fn details(self) -> &'static str {
        self.pair().1
    }

    /// Both; a test holds the second to the first, and the first to what is displayed.
    fn pair(self) -> (&'static str, &'static str) {
        macro_rules! pair {
            ($text:literal, $details:literal) => {
                ($text, concat!("jwt_authn_access_denied{", $details, "}"))
            };
        }
        match self {
            Self::Missing => pair!("Jwt is missing", "Jwt_is_missing"),
            Self::NotYetValid => pair!("Jwt not yet valid", "Jwt_not_yet_valid"),
            Self::Expired => pair!("Jwt is expired", "Jwt_is_expired"),
            Self::BadFormat => pair!(
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
                "Jwt_is_not_in_the_form_of_Header.Payload.Signature_with_two_dots_and_3_sections"
            ),
            Self::TooLarge => pair!("Jwt is too large", "Jwt_is_too_large"),
            Self::HeaderBase64 => pair!(
                "Jwt header is an invalid Base64url encoded",
                "Jwt_header_is_an_invalid_Base64url_encoded"
            ),
            Self::HeaderJson => pair!(
                "Jwt header is an invalid JSON",
                "Jwt_header_is_an_invalid_JSON"
            ),
            Self::HeaderAlg => pair!(
                "Jwt header [alg] field is required and must be a string",
                "Jwt_header_[alg]_field_is_required_and_must_be_a_string"
            ),
            Self::HeaderAlgUnsupported => pair!(
                "Jwt header [alg] is not supported",
                "Jwt_header_[alg]_is_not_supported"
            ),
            Self::HeaderKid => pair!(
                "Jwt header [kid] field is not a string",
                "Jwt_header_[kid]_field_is_not_a_string"
            ),
            Self::HeaderCrit => pair!(
                "Jwt header [crit] is not supported",
                "Jwt_header_[crit]_is_not_supported"
            ),
            Self::PayloadBase64 => pair!(
                "Jwt payload is an invalid Base64url encoded",
                "Jwt_payload_is_an_invalid_Base64url_encoded"
            ),
            Self::PayloadJson => pair!(
                "Jwt payload is an invalid JSON",
                "Jwt_payload_is_an_invalid_JSON"
            ),
            Self::Issuer => pair!(
                "Jwt payload [iss] field is not a string",
                "Jwt_payload_[iss]_field_is_not_a_string"
            ),
            Self::Subject => pair!(
                "Jwt payload [sub] field is not a string",
                "Jwt_payload_[sub]_field_is_not_a_string"
            ),
            Self::Id => pair!(
                "Jwt payload [jti] field is not a string",
                "Jwt_payload_[jti]_field_is_not_a_string"
            ),
            Self::Audience => pair!(
                "Jwt payload [aud] field is not a string or string list",
                "Jwt_payload_[aud]_field_is_not_a_string_or_string_list"
            ),
            Self::IssuedAt => pair!(
                "Jwt payload [iat] field is not an integer",
                "Jwt_payload_[iat]_field_is_not_an_integer"
            ),
            Self::IssuedAtRange => pair!(
                "Jwt payload [iat] field is not a positive 64 bit integer",
                "Jwt_payload_[iat]_field_is_not_a_positive_64_bit_integer"
            ),
            Self::NotBefore => pair!(
                "Jwt payload [nbf] field is not an integer",
                "Jwt_payload_[nbf]_field_is_not_an_integer"
            ),
            Self::NotBeforeRange => pair!(
                "Jwt payload [nbf] field is not a positive 64 bit integer",
                "Jwt_payload_[nbf]_field_is_not_a_positive_64_bit_integer"
            ),
            Self::Expiry => pair!(
                "Jwt payload [exp] field is not an integer",
                "Jwt_payload_[exp]_field_is_not_an_integer"
            ),
            Self::ExpiryRange => pair!(
                "Jwt payload [exp] field is not a positive 64 bit integer",
                "Jwt_payload_[exp]_field_is_not_a_positive_64_bit_integer"
            ),
            Self::SignatureBase64 => pair!(
                "Jwt signature is an invalid Base64url encoded",
                "Jwt_signature_is_an_invalid_Base64url_encoded"
            ),
            Self::UnknownIssuer => pair!(
                "Jwt issuer is not configured",
                "Jwt_issuer_is_not_configured"
            ),
            Self::AudienceNotAllowed => pair!(
                "Audiences in Jwt are not allowed",
                "Audiences_in_Jwt_are_not_allowed"
            ),
            Self::Verification => pair!("Jwt verification fails", "Jwt_verification_fails"),
            Self::NoKeys => pair!(
                "Jwks doesn't have any valid public key",
                "Jwks_doesn't_have_any_valid_public_key"
            ),
            Self::NoSuchKey => pair!(
                "Jwks doesn't have key to match kid or alg from Jwt",
                "Jwks_doesn't_have_key_to_match_kid_or_alg_from_Jwt"
            ),
        }
    }
}
