//! GatewayClass.

use crate::resource::reader::Fields;

/// A GatewayClass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GatewayClass {
    /// Who serves its Gateways.
    pub controller: String,
    /// Parameters are referred to, of which there are none here.
    pub parameters: bool,
}

pub(in crate::resource) fn gateway_class(fields: &Fields<'_>) -> GatewayClass {
    let Some(spec) = fields.require("spec") else {
        return GatewayClass::default();
    };
    let spec = spec.fields();
    let controller = spec.require("controllerName").and_then(|value| {
        let text = value.text()?;
        let named = text.split_once('/');
        if named.is_none_or(|(domain, path)| domain.is_empty() || path.is_empty()) {
            value.error_hint(
                format!("{text:?} is no name of a controller"),
                "DOMAIN/PATH, such as meshctl.dev/gateway-controller",
            );
        }
        Some(text)
    });
    spec.accept(&["description"]);
    let parameters = spec.get("parametersRef").is_some();
    spec.finish();
    GatewayClass {
        controller: controller.unwrap_or_default(),
        parameters,
    }
}
