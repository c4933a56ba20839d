//! The page in a real browser: light and dark, wide and narrow.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixture;

use std::process::Command;

use rkvm_measure::render::html;

/// Looks at the page as it is laid out and leaves what is wrong with it in an attribute.
const CHECK: &str = r#"<script>
const wrong = [];
const rgb = text => text.match(/[\d.]+/g).slice(0, 3).map(Number);
const luminance = colour => {
  const [r, g, b] = rgb(colour).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (a, b) => {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
};
const ground = getComputedStyle(document.body).backgroundColor;
if (document.documentElement.scrollWidth > innerWidth) wrong.push(`page is ${document.documentElement.scrollWidth} wide in ${innerWidth}`);
for (const element of document.querySelectorAll('p, li, td, th, h1, h2, figcaption, strong')) {
  const own = getComputedStyle(element);
  const behind = own.backgroundColor === 'rgba(0, 0, 0, 0)' ? ground : own.backgroundColor;
  if (contrast(own.color, behind) < 4.5) wrong.push(`contrast of ${element.tagName}: ${element.textContent.slice(0, 30)}`);
}
for (const table of document.querySelectorAll('table')) {
  const frame = table.parentElement;
  if (frame.scrollWidth > frame.clientWidth) wrong.push(`only a part of a table is seen: ${frame.getAttribute('aria-label')}`);
}
// Each is there in two forms, of which one is shown.
const pictures = [...document.querySelectorAll('svg')].filter(picture => picture.getBoundingClientRect().width > 0);
if (pictures.length !== 6) wrong.push(`${pictures.length} pictures`);
for (const picture of pictures) {
  const [title, description] = ['title', 'desc'].map(tag => picture.querySelector(`:scope > ${tag}`)?.textContent ?? '');
  if (picture.getAttribute('role') !== 'img' || title.length < 5 || description.length < 20) wrong.push(`no text alternative: ${title}`);
  const box = picture.getBoundingClientRect();
  const frame = picture.parentElement;
  if (frame.scrollWidth > frame.clientWidth) wrong.push(`only a part of ${title} is seen`);
  const size = parseFloat(getComputedStyle(picture).fontSize) * box.width / picture.viewBox.baseVal.width;
  if (size < 9) wrong.push(`text of ${size} px in ${title}`);
  if (box.width < 300 || box.height < 60) wrong.push(`picture of ${box.width} x ${box.height}`);
  const boxes = [...picture.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  boxes.forEach(([one, a], index) => boxes.slice(index + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left), down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 3) wrong.push(`${one} and ${other} overlap in ${title}`);
  }));
  for (const text of picture.querySelectorAll('text')) {
    const inner = text.getBoundingClientRect();
    if (inner.left < box.left - 1 || inner.right > box.right + 1 || inner.bottom > box.bottom + 1) wrong.push(`text outside: ${text.textContent}`);
    const bar = /on-(dark|light)/.test(text.getAttribute('class')) ? text.previousElementSibling : null;
    const behind = bar ? getComputedStyle(bar).fill : ground;
    const least = bar ? 3 : 4.5;
    if (contrast(getComputedStyle(text).fill, behind) < least) wrong.push(`contrast of ${text.textContent} in ${title}`);
  }
}
const theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';
document.documentElement.setAttribute('data-verdict', `${theme} ${innerWidth}: ${wrong.join('; ') || 'fine'}.`);
</script>"#;

/// What [`CHECK`] says of the page in a window of this width; `scheme` is Chromium's number for the theme, 0 dark and 1 light.
fn verdict(page: &std::path::Path, scheme: u8, width: u32) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--no-first-run"])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--window-size={width},900"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("chromium is needed: install it, or run `./x deps all`");
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = dom.split_once("data-verdict=\"").and_then(|(_, rest)| rest.split_once('"'));
    found.map_or_else(
        || format!("no verdict: {}", String::from_utf8_lossy(&output.stderr)),
        |(text, _)| text.to_owned(),
    )
}

#[test]
fn readable_in_light_and_dark_wide_and_narrow() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let mut report = fixture::report();
    report.question.image =
        format!("registry.example/{}/nginx@sha256:{}", "a-long-name".repeat(12), "ab".repeat(32));
    let text = html::render(&report).unwrap();
    std::fs::write(&page, text.replace("</main>", &format!("</main>{CHECK}"))).unwrap();
    for (scheme, theme) in [(0, "dark"), (1, "light")] {
        // The narrowest window that Chromium makes is 500 wide.
        for width in [500, 1200] {
            assert_eq!(verdict(&page, scheme, width), format!("{theme} {width}: fine."));
        }
    }
}
