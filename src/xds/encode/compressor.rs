//! Compression of answers.

use super::super::pb::compressor::compressor::{CommonDirectionConfig, ResponseDirectionConfig};
use super::super::pb::compressor::compressor_per_route::Override;
use super::super::pb::{Any, Gzip, any, bool_value, compressor as pb, core, u32_value};
use crate::mesh::filter::Compressor;

/// What a chain says.
pub(super) fn encode(from: &Compressor) -> Any {
    let usual = Compressor::default();
    let library = Gzip {
        compression_level: i32::from(from.level.min(9)),
        ..Gzip::default()
    };
    #[expect(
        deprecated,
        reason = "what takes its place is not known to Envoys of today"
    )]
    let common = CommonDirectionConfig {
        enabled: (!from.enabled).then(|| core::RuntimeFeatureFlag {
            default_value: bool_value(false),
            ..Default::default()
        }),
        min_content_length: (from.min_length != usual.min_length)
            .then(|| u32_value(from.min_length))
            .flatten(),
        content_type: from.content_types.clone(),
        ..CommonDirectionConfig::default()
    };
    any(&pb::Compressor {
        compressor_library: Some(core::TypedExtensionConfig {
            name: "gzip".to_owned(),
            typed_config: Some(any(&library)),
        }),
        response_direction_config: Some(ResponseDirectionConfig {
            common_config: Some(common),
            disable_on_etag_header: from.except_etag,
            weaken_etag_on_compress: from.weaken_etag,
            remove_accept_encoding_header: from.hide_accept_encoding,
            uncompressible_response_codes: from
                .except_statuses
                .iter()
                .map(|status| u32::from(*status))
                .collect(),
            ..ResponseDirectionConfig::default()
        }),
        ..pb::Compressor::default()
    })
}

/// What a route says: whether answers are compressed, as far as the chain does that.
pub(super) fn of_route(from: &Compressor) -> Any {
    any(&pb::CompressorPerRoute {
        r#override: Some(if from.enabled {
            Override::Overrides(pb::CompressorOverrides::default())
        } else {
            Override::Disabled(true)
        }),
    })
}
