"""What the pages' HTML is mended of."""

from accessible import mended


def test_an_empty_heading_is_a_cell():
    row = '<tr class="row"><th class="head">{}</th><th class="head text-right"><p>SRNN</p></th></tr>'
    for empty in ("", "<p></p>", "\n<p> </p>"):
        assert mended(row.format(empty)) == row.replace('<th class="head">{}</th>', '<td class="head"></td>')
    assert mended(row.format("<p>model</p>")) == row.format("<p>model</p>")


def test_an_entry_of_the_bibliography_is_an_item_of_its_list():
    entry = '<div role="list"><div class="citation" role="doc-biblioentry">Kingma</div></div>'
    assert mended(entry) == '<div role="list"><div class="citation" role="listitem">Kingma</div></div>'


def test_an_empty_list_goes():
    assert mended('<dd><p>Text</p>\n<dl class="py method">\n</dl>\n</dd>') == "<dd><p>Text</p>\n\n</dd>"
    assert mended("<dl><dt>a</dt><dd>b</dd></dl>") == "<dl><dt>a</dt><dd>b</dd></dl>"


def test_the_lines_of_a_signature_are_no_definitions():
    """Sphinx writes them as a list without terms, inside a term."""
    inner = "<dl>\n<dd><em>a</em>,</dd>\n<dd><em>b</em>,</dd>\n</dl>"
    sig = f'<dl class="py method"><dt class="sig">f({inner}\n)</dt><dd>Text</dd></dl>'
    line = '<span class="sig-line"><em>{}</em>,</span>\n'
    lines = f'<span class="sig-lines">{line.format("a")}{line.format("b")}</span>'
    assert mended(sig) == f'<dl class="py method"><dt class="sig">f({lines}\n)</dt><dd>Text</dd></dl>'
