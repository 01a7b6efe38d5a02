//! The name of a device inside what an event calls it: an id of Azure Resource Manager, `urn:device:…`, or the name alone.

use crate::DeviceId;

/// A type of resource that is a device; what stands behind its name (an alert, a setting) is a part of it.
const DEVICE_TYPE: &str = "databoxedgedevices";
/// What a device calls itself where it needs a URI.
pub(super) const DEVICE_URN: &str = "urn:device:";

/// From an id of a resource or a URN; nothing else.
pub(super) fn of_uri(text: &str) -> Option<&str> {
    let text = text.trim_end_matches('/');
    let name = match strip_prefix_ignoring_case(text, DEVICE_URN) {
        Some(name) => name,
        None => of_resource(text)?,
    };
    is_name(name).then_some(name)
}

/// The same, or the name alone.
pub(super) fn of_name_or_uri(text: &str) -> Option<&str> {
    let name = text.trim_end_matches('/');
    of_uri(text).or_else(|| (is_name(name) && !name.to_ascii_lowercase().starts_with("urn:")).then_some(name))
}

/// `/subscriptions/{id}/resourceGroups/{group}/providers/{namespace}/{type}/{name}[/{type}/{name}…]`, in any case.
fn of_resource(text: &str) -> Option<&str> {
    let mut levels = text.strip_prefix('/')?.split('/');
    for word in ["subscriptions", "resourcegroups"] {
        let is_here = levels.next()?.eq_ignore_ascii_case(word) && !levels.next()?.is_empty();
        is_here.then_some(())?;
    }
    (levels.next()?.eq_ignore_ascii_case("providers") && !levels.next()?.is_empty()).then_some(())?;
    let mut last = None;
    while let Some(kind) = levels.next() {
        let name = levels.next().filter(|name| !kind.is_empty() && !name.is_empty())?;
        if kind.eq_ignore_ascii_case(DEVICE_TYPE) {
            return Some(name);
        }
        last = Some(name);
    }
    last
}

fn is_name(text: &str) -> bool {
    text.parse::<DeviceId>().is_ok()
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "/subscriptions/1c7e2a54-0000-4000-8000-0000000000a1/resourceGroups/rg-plant/providers";

    #[test]
    fn a_device_is_found_in_what_it_is_called() {
        for (text, name) in [
            (format!("{GROUP}/Microsoft.DataBoxEdge/dataBoxEdgeDevices/ase-plant-07"), "ase-plant-07"),
            (format!("{GROUP}/microsoft.databoxedge/databoxedgedevices/ase-plant-07/"), "ase-plant-07"),
            (format!("{GROUP}/MICROSOFT.DATABOXEDGE/DATABOXEDGEDEVICES/ASE-PLANT-07").to_uppercase(), "ASE-PLANT-07"),
            (format!("{GROUP}/Microsoft.DataBoxEdge/dataBoxEdgeDevices/ase-plant-07/alerts/159a00c7"), "ase-plant-07"),
            (format!("{GROUP}/Microsoft.HybridCompute/machines/press-0042"), "press-0042"),
            (format!("{GROUP}/Microsoft.Devices/IotHubs/hub-1/devices/press-0042"), "press-0042"),
            ("urn:device:press-0042".to_owned(), "press-0042"),
            ("URN:Device:a:b".to_owned(), "a:b"),
        ] {
            assert_eq!(of_uri(&text), Some(name), "{text}");
            assert_eq!(of_name_or_uri(&text), Some(name), "{text}");
        }
        assert_eq!(of_name_or_uri("press-0042"), Some("press-0042"));
    }

    #[test]
    fn what_is_no_device_names_none() {
        for text in [
            "",
            "/",
            "press-0042",
            "https://monitor.example/devices/press-0042",
            "/subscriptions/1c7e2a54-0000-4000-8000-0000000000a1",
            "/subscriptions//resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices/x",
            "/subscriptions/a/resourceGroups/rg/providers/Microsoft.DataBoxEdge",
            "/subscriptions/a/resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices",
            "/subscriptions/a/resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices/..",
            "/subscriptions/a/resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices/a b",
            "/subscriptions/a/resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices/a+",
            "/subscriptions/a/resourceGroups/rg/providers/Microsoft.DataBoxEdge/dataBoxEdgeDevices//x",
            "urn:device:",
            "urn:device:a/b",
            "urn:device:#",
            "urn:devicé:x",
        ] {
            assert_eq!(of_uri(text), None, "{text}");
        }
        for text in ["", "..", "a b", "urn:other:x", "a/b", "#", &"d".repeat(129)] {
            assert_eq!(of_name_or_uri(text), None, "{text}");
        }
    }
}
