//! Compression of answers.

use super::super::pb::compressor::compressor_per_route::Override;
use super::super::pb::{Gzip, compressor as pb, is};
use super::fields::Fields;
use super::{Fault, unpack};
use crate::mesh::filter::Compressor;

/// For the page of what is supported.
pub(super) const FIELDS: &[&Fields] = &[&COMPRESSOR, &RESPONSE, &COMMON, &GZIP, &OVERRIDES];

const COMPRESSOR: Fields = Fields {
    message: "Compressor",
    understood: &[(6, "compressor_library"), (8, "response_direction_config")],
    tuning: &[(9, "choose_first")],
    refused: &[
        (1, "content_length"),
        (2, "content_type"),
        (3, "disable_on_etag_header"),
        (4, "remove_accept_encoding_header"),
        (5, "runtime_enabled"),
        (7, "request_direction_config"),
    ],
};
const RESPONSE: Fields = Fields {
    message: "Compressor.ResponseDirectionConfig",
    understood: &[
        (1, "common_config"),
        (2, "disable_on_etag_header"),
        (3, "remove_accept_encoding_header"),
        (4, "uncompressible_response_codes"),
        (6, "weaken_etag_on_compress"),
    ],
    tuning: &[],
    refused: &[(5, "status_header_enabled")],
};
const COMMON: Fields = Fields {
    message: "Compressor.CommonDirectionConfig",
    understood: &[
        (1, "enabled"),
        (2, "min_content_length"),
        (3, "content_type"),
    ],
    tuning: &[],
    refused: &[(4, "content_type_matcher")],
};
const GZIP: Fields = Fields {
    message: "Gzip",
    understood: &[(2, "compression_level")],
    tuning: &[
        (1, "memory_level"),
        (3, "compression_strategy"),
        (4, "window_bits"),
        (5, "chunk_size"),
    ],
    refused: &[],
};
const OVERRIDES: Fields = Fields {
    message: "CompressorPerRoute",
    understood: &[(1, "disabled"), (2, "overrides")],
    tuning: &[],
    refused: &[],
};

pub(super) fn decode(
    from: &pb::Compressor,
    ignored: &mut Vec<String>,
) -> Result<Compressor, Fault> {
    COMPRESSOR.audit(from, ignored)?;
    let library = from.compressor_library.as_ref();
    let name = library.map_or("", |library| library.name.as_str());
    let gzip = library
        .and_then(|library| library.typed_config.as_ref())
        .filter(|config| is::<Gzip>(config))
        .ok_or_else(|| Fault::Unsupported {
            message: "Compressor",
            field: format!("compressor_library {name:?}"),
        })?;
    let gzip: Gzip = unpack(gzip)?;
    GZIP.audit(&gzip, ignored)?;
    let response = from.response_direction_config.clone().unwrap_or_default();
    RESPONSE.audit(&response, ignored)?;
    let common = response.common_config.unwrap_or_default();
    COMMON.audit(&common, ignored)?;
    let usual = Compressor::default();
    let invalid = |what: &str| Fault::Invalid(format!("{what} of a compressor is out of range"));
    #[expect(
        deprecated,
        reason = "what takes its place is not sent by control planes of today"
    )]
    let content_types = common.content_type;
    Ok(Compressor {
        enabled: common
            .enabled
            .as_ref()
            .and_then(|flag| flag.default_value)
            .is_none_or(|on| on.value),
        min_length: common
            .min_content_length
            .map_or(usual.min_length, |least| least.value),
        content_types,
        except_statuses: response
            .uncompressible_response_codes
            .iter()
            .map(|status| u16::try_from(*status).map_err(|_| invalid("a status")))
            .collect::<Result<_, _>>()?,
        except_etag: response.disable_on_etag_header,
        weaken_etag: response.weaken_etag_on_compress,
        hide_accept_encoding: response.remove_accept_encoding_header,
        level: u8::try_from(gzip.compression_level)
            .ok()
            .filter(|level| *level <= 9)
            .ok_or_else(|| invalid("compression_level"))?,
    })
}

/// What a route says: whether, but not how.
pub(super) fn of_route(
    from: &pb::CompressorPerRoute,
    ignored: &mut Vec<String>,
) -> Result<Compressor, Fault> {
    OVERRIDES.audit(from, ignored)?;
    match &from.r#override {
        Some(Override::Disabled(true)) => Ok(Compressor::off()),
        Some(Override::Overrides(own)) if *own == pb::CompressorOverrides::default() => {
            Ok(Compressor::default())
        }
        _ => Err(Fault::Unsupported {
            message: "CompressorPerRoute",
            field: "overrides".to_owned(),
        }),
    }
}
