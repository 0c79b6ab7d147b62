"""A form that starts a search, and the live view of it."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as w

from s3pet_viz.config.names import SPACES
from s3pet_viz.config.options import Option
from s3pet_viz.errors import S3PETError
from s3pet_viz.launcher import start
from s3pet_viz.runs import Run
from s3pet_viz.structure.pins import pin_text, read_pin
from s3pet_viz.viewer.feed import Frame
from s3pet_viz.widgets import search_form
from s3pet_viz.widgets.live import LiveView
from s3pet_viz.widgets.viewer import Pictured

#: A row that breaks where it is narrow; nothing has a fixed place.
_ROW = {"display": "flex", "flex_flow": "row wrap", "align_items": "center", "width": "auto"}


class LiveSearch(Pictured):
    """Choose a task, a backbone and a budget, press Start, and watch the search.

    The search runs in a process of its own: the kernel stays free, and may even end.

    Args:
        defaults: first values of the form's fields (`fields`), and any other option of `launch`, which is passed on as
            it is.

    Attributes:
        fields: the controls, by name.
        start_button: begins the search.
        view: the `LiveView`.

    Raises:
        ConfigError: a default that its field cannot hold.
        MissingExtraError: ipywidgets or anywidget is not installed.
    """

    def __init__(self, **defaults: Any) -> None:
        values = {**search_form.DEFAULTS, **{name: value for name, value in defaults.items() if value is not None}}
        self._other = {name: value for name, value in values.items() if name not in search_form.DEFAULTS}
        values = {name: values[name] for name in search_form.DEFAULTS}
        for name in ("task", "backbone", "budget", "space"):
            values[name] = str(values[name])
        values["pin"] = pin_text(read_pin("pin", values["pin"]) if values["pin"] else None)
        search_form.check_form(values)
        self.fields: dict[str, Any] = {name: _control(one, values[name]) for name, one in search_form.FIELDS.items()}
        self.start_button = w.Button(
            description="Start",
            icon="rocket",
            button_style="primary",
            tooltip="Start the search in its own process",
            layout=w.Layout(width="auto", min_width="110px", margin="2px 2px 2px 84px"),
        )
        self.start_button.on_click(self._start)
        self._message = w.HTML()
        self.view = LiveView(on_frame=self._seen)
        self.view.layout.display = "none"
        super().__init__(
            [
                w.Box(list(self.fields.values()), layout=w.Layout(**_ROW)),
                w.Box([self.start_button, self._message], layout=w.Layout(**_ROW)),
                self.view,
            ],
            layout=w.Layout(width="100%", min_width="0"),
        )

    @property
    def run(self) -> Run | None:
        """The run of the latest search; None before it has begun."""
        return self.view.run

    @property
    def message(self) -> str:
        """What is wrong with the form, as HTML; "" where nothing is."""
        value: str = self._message.value
        return value

    def close(self) -> None:
        """Take the form and the view off the screen; the search goes on."""
        if "view" in vars(self):  # ipywidgets closes what `__init__` refused, too
            self.view.close()
        super().close()

    def __repr__(self) -> str:
        return "LiveSearch()"

    def _static_svg(self) -> str:
        if self.view.run is not None:
            return self.view._static_svg()
        rows = []
        for i, (name, field) in enumerate(self.fields.items()):
            x, y = 8 + 280 * (i % 3), 34 + 30 * (i // 3)
            rows.append(
                f"<text x='{x + 66}' y='{y}' text-anchor='end'>{name}</text>"
                f"<rect x='{x + 74}' y='{y - 15}' width='180' height='22' fill='none' stroke='#9aa5b1'/>"
                f"<text x='{x + 82}' y='{y}'>{html.escape(str(field.value))}</text>"
            )
        said = "A form that starts a search and shows it: in JupyterLab it can be filled in."
        return (
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 860 150' width='860' font-size='12' "
            f"font-family='Helvetica,Arial,sans-serif'><rect width='860' height='150' fill='white'/>{''.join(rows)}"
            f"<text x='8' y='138' fill='#5f6c78'>{said}</text></svg>"
        )

    # -- inside ----------------------------------------------------------------------------------------

    def _start(self, _: Any) -> None:
        try:
            options = search_form.check_form({name: field.value for name, field in self.fields.items()})
            launched = start(**options, **self._other)
        except (S3PETError, OSError, TypeError) as error:
            self._message.value = _refusal(error)
            return
        self._message.value = ""
        self.start_button.disabled = True
        self.view.layout.display = None
        self.view.attach(launched)

    def _seen(self, frame: Frame) -> None:
        """One search at a time from one form."""
        if self.start_button.disabled and frame.ended:
            self.start_button.disabled = False
        elif not self.start_button.disabled and not frame.ended:
            self.start_button.disabled = True


def _refusal(error: Exception) -> str:
    """A message that cannot be overlooked."""
    return (
        "<div role='alert' style='border-left:4px solid #b3261e;padding:4px 10px;white-space:pre-wrap;"
        f"overflow-wrap:anywhere;line-height:1.4'>{html.escape(str(error))}</div>"
    )


def _control(one: Option, value: Any) -> Any:
    """The control of an option, by what it takes."""
    layout = w.Layout(width="auto", flex="1 1 240px", min_width="200px", max_width="340px")
    shape = {"description": one.name, "tooltip": one.text, "style": {"description_width": "80px"}, "layout": layout}
    known = {"task": search_form.tasks, "backbone": search_form.backbones, "space": lambda: list(SPACES)}.get(one.name)
    if known is not None:
        hint = "a name or a file" if one.name == "space" else "a name or a folder"
        return w.Combobox(value=value, options=known(), placeholder=hint, ensure_option=False, **shape)
    if one.choices:
        return w.Dropdown(value=value, options=one.choices, **shape)
    if one.kind is bool:
        return w.Checkbox(value=bool(value), **shape)
    if one.kind is int and not one.optional:
        return w.BoundedIntText(value, min=one.least, max=2**31 - 1, **shape)
    return w.Text("" if value is None else str(value), placeholder=one.unset, **shape)
