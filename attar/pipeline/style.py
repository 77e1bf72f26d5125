"""The style sheet of the report: a page of text and numbers, with colour only where it means something."""

CSS = """
:root { color-scheme: light dark;
  --page: #fafaf8; --card: #fff; --ink: #1c1e21; --muted: #5f656d; --line: #e2e3df; --accent: #9a5b13;
  --ghost: #b9b4ab; --good: #17683a; --bad: #ad2626; --unsure: #805600; }
@media (prefers-color-scheme: dark) { :root {
  --page: #141517; --card: #1c1e21; --ink: #eceae6; --muted: #a2a7ad; --line: #33363a; --accent: #dea452;
  --ghost: #6b6a66; --good: #6fcf97; --bad: #f28b82; --unsure: #e5b95c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .7rem; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
.quiet { color: var(--muted); font-size: .875rem; }
.verdict { margin: 1.3rem 0; padding: .8rem 1.1rem; background: var(--card); border-radius: 4px;
  border-left: 4px solid var(--tone); }
.verdict strong { color: var(--tone); }
.pass { --tone: var(--good); } .fail { --tone: var(--bad); } .unsure { --tone: var(--unsure); }
.none { --tone: var(--muted); }
.cards { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.5rem), 1fr)); }
.card, figure, .scroll { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.card { padding: .9rem 1.1rem; }
.card b { display: block; font-size: 1.75rem; font-weight: 650; line-height: 1.25; }
.card span { display: block; color: var(--muted); font-size: .875rem; line-height: 1.4;
  overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: right; white-space: nowrap; vertical-align: top; }
th { color: var(--muted); font-weight: 500; font-size: .8rem; }
tbody td, tbody th { border-top: 1px solid var(--line); }
tbody th { color: inherit; font-size: .9rem; font-weight: 400; }
.text { text-align: left; }
.wide { white-space: normal; min-width: 12rem; }
.wide small { display: block; color: var(--muted); font-size: .8rem; overflow-wrap: anywhere; }
.dropped td { color: var(--muted); } .dropped .tag { color: var(--bad); }
.tag { color: var(--good); }
.charts { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.charts + .charts { margin-top: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; padding: .9rem 1rem .6rem; }
figcaption { font-weight: 600; font-size: .9rem; }
figcaption span { display: block; color: var(--muted); font-weight: 400; font-size: .8rem; }
figure svg { display: block; width: 100%; max-width: 30rem; height: auto; margin-top: .5rem; }
svg text { font-family: system-ui, sans-serif !important; }
.facts { display: grid; column-gap: 2.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 0; font-size: .9rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: 1rem; font-size: .82rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
summary { cursor: pointer; font-weight: 600; margin-top: 2.6rem; }
""".strip()
