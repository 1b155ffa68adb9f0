"""A report of results: one page with interactive curves, tables and plots for papers.

collect: records, codecs, what may be compared. comparison: curves and BD-rates against the
anchor. tables: Markdown, CSV, LaTeX. plots: matplotlib. page: the HTML. write: all of them.
"""
