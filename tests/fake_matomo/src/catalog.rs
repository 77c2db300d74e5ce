//! Fixed lists: countries, devices, pages, and texts that break careless code.

use crate::visit::Device;

/// English name, French name, code, continent, continent's code.
pub const COUNTRIES: &[(&str, &str, &str, &str, &str)] = &[
    ("France", "France", "fr", "Europe", "eur"),
    ("Germany", "Allemagne", "de", "Europe", "eur"),
    ("United Kingdom", "Royaume-Uni", "gb", "Europe", "eur"),
    ("Spain", "Espagne", "es", "Europe", "eur"),
    ("United States", "États-Unis", "us", "North America", "amn"),
    ("Japan", "Japon", "jp", "Asia", "asi"),
    ("Brazil", "Brésil", "br", "South America", "ams"),
    ("Réunion", "La Réunion", "re", "Africa", "afr"),
    ("Côte d’Ivoire", "Côte d’Ivoire", "ci", "Africa", "afr"),
    ("Unknown", "Inconnu", "xx", "Unknown", "unk"),
];

/// The country's row in `COUNTRIES`; unknown names get the row for "unknown".
pub fn country(
    name: &str,
) -> &'static (&'static str, &'static str, &'static str, &'static str, &'static str) {
    let unknown = &COUNTRIES[COUNTRIES.len() - 1];
    COUNTRIES.iter().find(|c| c.0 == name).unwrap_or(unknown)
}

/// The country's name with `language=fr`.
pub fn country_in_french(name: &str) -> &str {
    COUNTRIES.iter().find(|c| c.0 == name).map_or(name, |c| c.1)
}

macro_rules! device {
    ($($text:literal),*) => { device!(@ [$($text),*]) };
    (@ [$kind:literal, $brand:literal, $model:literal, $os:literal, $os_code:literal, $os_version:literal,
        $browser:literal, $browser_code:literal, $browser_version:literal, $family:literal, $description:literal]) => {
        Device {
            kind: $kind, brand: $brand, model: $model, os: $os, os_code: $os_code, os_version: $os_version,
            browser: $browser, browser_code: $browser_code, browser_version: $browser_version,
            family: $family, family_description: $description,
        }
    };
}

/// The devices seen in the recordings.
#[rustfmt::skip]
pub const DEVICES: &[Device] = &[
    device!("Desktop", "Unknown", "Generic Desktop", "Windows", "WIN", "10", "Chrome", "CH", "130.0", "Blink", "Blink (Chrome, Opera)"),
    device!("Smartphone", "Apple", "iPhone", "iOS", "IOS", "17.5", "Mobile Safari", "MF", "17.5", "WebKit", "WebKit (Safari)"),
    device!("Smartphone", "Samsung", "Galaxy S23 Ultra", "Android", "AND", "14", "Chrome Mobile", "CM", "129.0", "Blink", "Blink (Chrome, Opera)"),
    device!("Desktop", "Apple", "Generic Desktop", "Mac", "MAC", "14.5", "Safari", "SF", "17.5", "WebKit", "WebKit (Safari)"),
    device!("Desktop", "Unknown", "Generic Desktop", "GNU/Linux", "LIN", "", "Firefox", "FF", "131.0", "Gecko", "Gecko (Firefox)"),
    device!("Tablet", "Apple", "iPad", "iOS", "IOS", "16.6", "Mobile Safari", "MF", "16.6", "WebKit", "WebKit (Safari)"),
    device!("Unknown", "Unknown", "Unknown", "Bot", "BOT", "", "Unknown", "UNK", "", "", "Unknown"),
];

pub const RESOLUTIONS: &[&str] =
    &["1920x1080", "390x844", "1440x900", "360x800", "2560x1440", "unknown"];

/// Language codes and their English names.
pub const LANGUAGES: &[(&str, &str)] = &[
    ("fr", "French"),
    ("fr-fr", "Language code fr-fr"),
    ("en-us", "Language code en-us"),
    ("de", "German"),
    ("ja", "Japanese"),
    ("ar", "Arabic"),
    ("", "Unknown"),
];

/// Cities, with the region's name where there is one.
pub const CITIES: &[(&str, Option<&str>)] = &[
    ("Paris", Some("Île-de-France")),
    ("München", None),
    ("São Paulo", Some("Unknown")),
    ("L'Haÿ-les-Roses", Some("Île-de-France")),
    ("京都市", Some("Kyōto")),
];

/// Pages of a shop, the most popular first: path and title.
pub const PAGES: &[(&str, &str)] = &[
    ("/", "Example shop – Shoes and bags"),
    ("/sale", "Sale: up to 50% off – Example shop"),
    ("/shoes", "Shoes – Example shop"),
    ("/shoes/trail-runner-2", "Trail Runner 2 – Example shop"),
    ("/bags", "Bags – Example shop"),
    ("/shoes/city-sneaker", "City Sneaker – Example shop"),
    ("/bags/weekender", "Weekender bag – Example shop"),
    ("/cart", "Your cart – Example shop"),
    ("/blog", "Blog – Example shop"),
    ("/contact", "Contact us – Example shop"),
    ("/shoes/hiking-boot-gtx", "Hiking Boot GTX – Example shop"),
    ("/blog/how-to-choose-running-shoes", "How to choose running shoes – Example shop"),
    ("/account", "My account – Example shop"),
    ("/help/returns", "Returns and refunds – Example shop"),
    ("/bags/backpack-25l", "Backpack 25 l – Example shop"),
    ("/shoes/sandal-breeze", "Sandal Breeze – Example shop"),
    ("/help/delivery", "Delivery times – Example shop"),
    ("/blog/leather-care", "Leather care in five steps – Example shop"),
    ("/stores", "Our stores – Example shop"),
    ("/shoes?size=42&colour=black", "Shoes, size 42, black – Example shop"),
    ("/gift-cards", "Gift cards – Example shop"),
    ("/blog/été-2026", "Notre collection d’été – Example shop"),
    ("/about", "About us – Example shop"),
    ("/legal/terms", "Terms – Example shop"),
];

/// Titles that break careless code.
pub const NASTY: &[&str] = &[
    "🎉 Promo 🎉👩‍👩‍👧",
    "عنوان الصفحة",
    "שלום \u{202e}abc\u{202c}",
    "日本語のページ",
    "It's \"quoted\" & 'single' \\ back\\\\slash",
    "<script>alert(\"1\")</script> &amp; <b>bold</b>",
    "Tab\there",
    "Line\u{2028}separator\u{2029}paragraph",
    "\u{feff}BOM and \u{7f} and \u{1} and \u{1b}[31m",
    "Page « spéciale » été — œuvre",
    "{\"json\": [1, null]}, $1 %s {} '); DROP TABLE matomo; --",
    "NULL",
    "\\N",
    "",
];

/// URLs that break careless code, without the host.
pub const NASTY_PATHS: &[&str] = &[
    "/p?html=<script>alert(1)</script>",
    "/a/b/c?x=1&y[]=2&y[]=3",
    "/x?u=http%3A%2F%2Fa.b%2F%3Fq%3D1#frag",
    "/path with space",
    "/été/naïve/🎉",
    "/back\\slash\"quote'",
    "/tab\there",
    "/u\u{2028}2028",
];

/// Event values in every number format, as literals.
pub const EVENT_VALUES: &[&str] =
    &["0", "1", "-7", "1.5", "0.001", "1000000000", "1e+30", "123456789012.12", "-0.25", "3.14"];
