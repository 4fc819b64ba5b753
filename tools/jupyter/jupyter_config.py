"""Settings of Jupyter's programs, found by JUPYTER_CONFIG_PATH: exported pages keep the figures' alt texts.

JUPYTER_CONFIG_PATH=tools/jupyter jupyter nbconvert --to html notebooks/00_start_here.ipynb

The default template of nbconvert ("lab") ignores the alt text that an output has in its metadata. The
template "classic" reads it. `make lab` uses these settings, too: for the menu "Save and Export Notebook As".
"""

from html import escape


def with_alt_texts(notebook, resources):
    """Give each PNG that has an alt text the form of an HTML image. The notebook is the exporter's copy."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt")
            if alt:
                data = output.data.pop("image/png").replace("\n", "")
                output.data["text/html"] = f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
    return notebook, resources


c = get_config()  # noqa: F821 - Jupyter defines it
c.HTMLExporter.preprocessors = [with_alt_texts]
