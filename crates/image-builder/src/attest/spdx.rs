//! The bill of materials as SPDX 2.3 JSON.

use oci_model::Reference;
use serde_json::{Value, json};

use super::packages::{Bill, Package};
use crate::image::BuiltImage;

/// Identifier of the image among the packages.
const IMAGE: &str = "SPDXRef-DocumentRoot-Image";
/// Where nothing is claimed.
const UNKNOWN: &str = "NOASSERTION";

/// The document; `created` is in unix seconds.
pub(super) fn document(
    image: &BuiltImage,
    names: &[Reference],
    bill: &Bill,
    created: i64,
) -> Value {
    let digest = image.manifest.digest();
    let name = names.first().map_or_else(|| digest.to_string(), Reference::familiar);
    let created = jiff::Timestamp::from_second(created).unwrap_or_default().to_string();
    let mut packages = vec![json!({
        "name": name,
        "SPDXID": IMAGE,
        "versionInfo": digest.to_string(),
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "CONTAINER",
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": UNKNOWN,
        "copyrightText": UNKNOWN,
        "checksums": [{ "algorithm": "SHA256", "checksumValue": digest.encoded() }],
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": IMAGE,
    })];
    for (number, found) in bill.packages.iter().enumerate() {
        let id = identifier(number, found);
        relationships.push(json!({
            "spdxElementId": IMAGE,
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
        packages.push(package(&id, found, bill));
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        // A URN keeps the document unique without a host that would have to serve it.
        "documentNamespace": format!("urn:shipway:sbom:{digest}"),
        "creationInfo": {
            "created": created,
            "creators": [concat!("Tool: shipway-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    if !bill.notes.is_empty() {
        document["comment"] = json!(bill.notes.join("; "));
    }
    document
}

fn package(id: &str, found: &Package, bill: &Bill) -> Value {
    let licence = found.license.as_deref().filter(|text| is_expression(text));
    let mut package = json!({
        "name": found.name,
        "SPDXID": id,
        "versionInfo": found.version,
        "supplier": supplier(found),
        "downloadLocation": UNKNOWN,
        "filesAnalyzed": false,
        "sourceInfo": format!("found in /{}", found.location.display()),
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": licence.unwrap_or(UNKNOWN),
        "copyrightText": UNKNOWN,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": found.purl(&bill.distribution),
        }],
    });
    if let (None, Some(text)) = (licence, &found.license) {
        package["licenseComments"] = json!(text);
    }
    package
}

fn supplier(found: &Package) -> String {
    match &found.supplier {
        Some(name) if !name.is_empty() => format!("Person: {name}"),
        _ => UNKNOWN.to_owned(),
    }
}

/// SPDX identifiers have letters, digits, dots and hyphens; the number keeps them apart.
fn identifier(number: usize, package: &Package) -> String {
    let plain = |text: &str| -> String {
        text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
    };
    format!("SPDXRef-Package-{}-{}-{}", package.kind.name(), plain(&package.name), number + 1)
}

/// Whether a text looks like an SPDX licence expression (SPDX 2.3 annex D): known forms of words
/// only, so that free text never stands where a reader expects an expression.
fn is_expression(text: &str) -> bool {
    let mut expects_licence = true;
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut depth = 0_usize;
    for word in spaced.split_whitespace() {
        match word {
            "(" if expects_licence => depth += 1,
            ")" if !expects_licence && 0 < depth => depth -= 1,
            "AND" | "OR" | "WITH" if !expects_licence => expects_licence = true,
            "(" | ")" | "AND" | "OR" | "WITH" => return false,
            _ if expects_licence && is_identifier(word) => expects_licence = false,
            _ => return false,
        }
    }
    !expects_licence && depth == 0
}

fn is_identifier(word: &str) -> bool {
    let known = [
        "0BSD",
        "AFL-",
        "AGPL-",
        "Apache-",
        "Artistic-",
        "BSD-",
        "BSL-",
        "BlueOak-",
        "CC-",
        "CC0-",
        "CDDL-",
        "EPL-",
        "FSFAP",
        "GFDL-",
        "GPL-",
        "HPND",
        "ICU",
        "IJG",
        "ISC",
        "LGPL-",
        "MIT",
        "MIT-0",
        "MPL-",
        "NCSA",
        "OFL-",
        "OpenSSL",
        "PSF-",
        "Python-",
        "Ruby",
        "SSPL-",
        "Sleepycat",
        "TCL",
        "Unicode-",
        "Unlicense",
        "Vim",
        "WTFPL",
        "X11",
        "Zlib",
        "curl",
        "libpng",
        "zlib-",
        "bzip2-",
        "Classpath-exception-",
        "GCC-exception-",
        "LLVM-exception",
    ];
    known.iter().any(|name| match name.strip_suffix('-') {
        Some(_) => word.starts_with(name) && word.len() > name.len(),
        None => word == *name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expressions_are_declared() {
        for good in
            ["MIT", "GPL-2.0-only AND (MIT OR Apache-2.0)", "GPL-2.0+ WITH Classpath-exception-2.0"]
        {
            assert!(is_expression(good), "{good}");
        }
        for bad in ["", "MIT License", "GPL", "AND", "MIT OR", "(MIT", "MIT)", "SEE LICENSE IN x"] {
            assert!(!is_expression(bad), "{bad}");
        }
    }
}
