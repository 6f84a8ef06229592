"""The page's style sheet: light and dark by the reader's own setting, one column on a phone."""

STYLE = """
:root{color-scheme:light dark;--back:#fff;--panel:#f5f7f9;--text:#1b1f24;--muted:#56606b;--rule:#d5dae0;
--c0:#0b57d0;--c1:#ad4207;--c2:#00695c;--c3:#8e24aa;--c4:#9a1750;--c5:#5d5300;--mark:#e8f0fe}
@media(prefers-color-scheme:dark){:root{--back:#12161b;--panel:#1a2027;--text:#e6ebf1;--muted:#a3adb9;--rule:#39424d;
--c0:#82b4ff;--c1:#ffad73;--c2:#6fd6c2;--c3:#d7a3f0;--c4:#ff9dbb;--c5:#d8cd6a;--mark:#1b2c46}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
main{max-width:68rem;margin:0 auto;padding:1.5rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.25;margin:0 0 .25rem}
h2{font-size:1.2rem;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3,h4{font-size:1rem;margin:0 0 .25rem}
nav ul{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;list-style:none;margin:.75rem 0;padding:0}
nav a{display:inline-block;padding:.2rem 0;color:var(--c0)}
p{margin:.5rem 0;max-width:46rem}
.lead{font-size:1.1rem;margin:1rem 0}
.muted,.note,caption{color:var(--muted)}
.note,caption{font-size:.9rem}
.caution{border-left:4px solid var(--c1);padding-left:.75rem}
.wide{overflow-x:auto;max-width:100%;margin:.75rem 0}
table{border-collapse:separate;border-spacing:0;font-variant-numeric:tabular-nums;min-width:min(100%,24rem)}
caption{text-align:left;padding:0 .25rem .25rem}
th,td{padding:.35rem .75rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
th:first-child,td:first-child{text-align:left;padding-left:.25rem}
td{white-space:nowrap}
tbody th{font-weight:400;position:sticky;left:0;background:var(--back)}
thead th{font-size:.9rem;vertical-align:bottom}
tr.mark>*{background:var(--mark);font-weight:600}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1.5rem;align-items:start}
.pair>*{min-width:0}
figure{margin:.5rem 0}
svg{display:block;width:100%;height:auto;max-width:34rem}
svg text{fill:var(--text);font-size:13px}
svg .tick{fill:var(--muted)}
svg .grid{stroke:var(--rule)}
svg .axis{fill:none;stroke:var(--muted)}
svg .level{fill:none;stroke:var(--muted);stroke-width:1.5;stroke-dasharray:2 4}
svg .line{fill:none;stroke-width:2.25;stroke-linejoin:round}
svg .end{font-weight:600}
svg .end.muted{fill:var(--muted)}
svg .line.s0{stroke:var(--c0)}svg :is(.dot,.end,.bar,.spot).s0{fill:var(--c0)}
svg .line.s1{stroke:var(--c1);stroke-dasharray:7 4}svg :is(.dot,.end,.bar,.spot).s1{fill:var(--c1)}
svg .line.s2{stroke:var(--c2);stroke-dasharray:2 3}svg :is(.dot,.end,.bar,.spot).s2{fill:var(--c2)}
svg .line.s3{stroke:var(--c3);stroke-dasharray:10 3 2 3}svg :is(.dot,.end,.bar,.spot).s3{fill:var(--c3)}
svg .line.s4{stroke:var(--c4);stroke-dasharray:4 2}svg :is(.dot,.end,.bar,.spot).s4{fill:var(--c4)}
svg .line.s5{stroke:var(--c5);stroke-dasharray:12 5}svg :is(.dot,.end,.bar,.spot).s5{fill:var(--c5)}
svg .strong{font-weight:600}
svg .heat{fill:var(--c0)}
svg .spot{fill-opacity:.55}svg .spot:hover{fill-opacity:1}
svg .frame{fill:var(--panel);stroke:var(--rule)}
svg .bar{fill-opacity:.75}svg .bar.muted{fill:var(--muted);fill-opacity:.5}
svg .whisker{fill:none;stroke:var(--text);stroke-width:1.5}
details{margin:.5rem 0}
summary{cursor:pointer;padding:.25rem 0}
:focus-visible{outline:2px solid var(--c0);outline-offset:2px}
details.run{border:1px solid var(--rule);border-radius:.4rem;padding:0 1rem;margin:1rem 0}
details.run>summary{padding:.75rem 0}
details.run>summary h2{display:inline;margin:0;padding:0;border:0}
details.run>h3{font-size:1.1rem;margin:2rem 0 .5rem}
table.prose td{white-space:normal;text-align:left}
table.prose td:nth-child(2){min-width:9rem}
table.prose th,table.noted :is(th,td):last-child{text-align:left}
table.noted td:last-child{white-space:normal;min-width:16rem}
pre{background:var(--panel);padding:.75rem;overflow-x:auto;font-size:.85rem}
dl{margin:.75rem 0;max-width:46rem}
dt{font-weight:600;margin-top:1rem}
dd{margin:.25rem 0 0;padding:.5rem .75rem;background:var(--panel);white-space:pre-wrap;overflow-wrap:anywhere}
@media(max-width:32rem){th,td{padding:.35rem .5rem}main{padding:1rem .75rem 2rem}tbody th{min-width:7.5rem}}
"""
