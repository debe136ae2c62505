//! HTML reports: one file with everything in it, no script, nothing loaded from anywhere. They are read on a
//! phone, on paper, in the dark, by people who were not there.
//!
//! What a report says belongs to the command that writes it; how it looks is here.

pub mod chart;

/// Colours of series, told apart also by people who do not see them all, and on paper: `--c0` … in [`STYLE`].
pub const COLOURS: usize = 6;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#57606a;--line:#d0d7de;--soft:#f3f5f7;\
--good:#1a7f37;--bad:#b3261e;\
--c0:#2a6fb0;--c1:#c4601d;--c2:#3f8a3c;--c3:#8250a8;--c4:#9a6b00;--c5:#0f8283}\
@media (prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e6e9ec;--dim:#9aa4ae;--line:#3a424b;--soft:#1f242a;\
--good:#56c271;--bad:#ff7b72;\
--c0:#6cb0f0;--c1:#f0995a;--c2:#7fc97a;--c3:#c79bea;--c4:#dcb44a;--c5:#5cc7c8}}\
*{box-sizing:border-box}\
body{font:16px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif;background:var(--bg);color:var(--fg);\
max-width:68rem;margin:0 auto;padding:1.5rem 1rem 3rem;overflow-wrap:break-word}\
h1{font-size:1.5rem;line-height:1.25;margin:0 0 .25rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
p{margin:.4rem 0}.dim{color:var(--dim)}.good{color:var(--good)}.bad{color:var(--bad)}\
.big{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.6rem;margin:1rem 0}\
.big div{background:var(--soft);border-radius:.5rem;padding:.6rem .8rem}\
.big b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}\
.big span{color:var(--dim);font-size:.85rem}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr));gap:1.5rem;margin-top:1.2rem}\
figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:.25rem}\
svg{display:block;width:100%;height:auto}svg text{font:15px system-ui,sans-serif;fill:var(--dim)}\
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--dim);stroke-width:1}\
.mark{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:4 3}\
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.9rem;margin:.25rem 0 0}\
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}\
th{font-weight:600;color:var(--dim)}th:first-child,td:first-child{text-align:left;padding-left:0}\
pre{overflow-x:auto;font-size:.85rem;line-height:1.4;background:var(--soft);padding:.8rem;border-radius:.5rem}\
ul{padding-left:1.2rem}\
@media (max-width:34rem){th,td{padding:.3rem .4rem;font-size:.85rem}}\
@media print{:root{--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--soft:#fff;--good:#0b5c22;--bad:#8c1d18;\
--c0:#2a6fb0;--c1:#c4601d;--c2:#3f8a3c;--c3:#8250a8;--c4:#9a6b00;--c5:#0f8283}\
body{font-size:10.5pt;max-width:none;padding:0}figure,tr,.big div{break-inside:avoid}h2{break-after:avoid}\
.charts{grid-template-columns:1fr 1fr}.big div{border:1px solid var(--line)}\
.big{grid-template-columns:repeat(3,1fr)}pre{white-space:pre-wrap}.scroll{overflow:visible}\
svg,i{print-color-adjust:exact;-webkit-print-color-adjust:exact}}";

/// A whole file. `title` is text, `body` is HTML.
#[must_use]
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// Text as HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Numbers that come first, each with what it is.
#[must_use]
pub fn headline(numbers: &[(String, &str)]) -> String {
    let one = |(number, what): &(String, &str)| {
        format!("<div><b>{}</b><span>{}</span></div>", escape(number), escape(what))
    };
    format!("<div class=\"big\">{}</div>\n", numbers.iter().map(one).collect::<String>())
}

/// A table; the first row is its head.
#[must_use]
pub fn table(rows: &[Vec<String>]) -> String {
    let mut out = String::from("<div class=\"scroll\"><table>\n");
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells: String =
            row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        out.push_str(&format!("<tr>{cells}</tr>\n"));
    }
    out + "</table></div>\n"
}

/// A picture with its caption and the names of its series; nothing is said of a single series.
#[must_use]
pub fn figure(caption: &str, svg: &str, series: &[String]) -> String {
    let mut legend = String::new();
    if series.len() > 1 {
        for (index, name) in series.iter().enumerate() {
            let colour = index % COLOURS;
            legend.push_str(&format!(
                "<span><i style=\"background:var(--c{colour})\"></i>{}</span>",
                escape(name)
            ));
        }
        legend = format!("<div class=\"legend\">{legend}</div>");
    }
    format!("<figure><figcaption>{}</figcaption>{svg}{legend}</figure>\n", escape(caption))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let evil = "<script>alert('x\"&')</script>";
        let all = [
            page(evil, ""),
            headline(&[(evil.to_owned(), evil)]),
            table(&[vec![evil.to_owned()], vec![evil.to_owned()]]),
            figure(evil, "", &[evil.to_owned(), evil.to_owned()]),
        ];
        for html in all {
            assert!(!html.contains("<script") && html.contains("&lt;script&gt;"), "{html}");
        }
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let html = page("x", "");
        for word in ["http:", "https:", "url(", "<link", "<script", "@import"] {
            assert!(!html.contains(word), "{word}");
        }
        // Every colour that a series can have exists in light, in the dark, and on paper.
        for index in 0..COLOURS {
            assert_eq!(html.matches(&format!("--c{index}:")).count(), 3, "--c{index}");
        }
    }
}
