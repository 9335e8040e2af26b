"""Handlers of ``http://`` and ``https://`` URLs, as TensorFlow.js's ``tf.io.http``, where that works.

Loading fetches ``model.json`` and, relative to where redirects led, the ranges of its weight files that are asked for.
Saving sends one multipart request. What differs from TensorFlow.js, on purpose: every status and every length is
checked; a slash is put between ``weight_path_prefix`` and a file's name if there is none; the query of the model's URL
goes along to weight files on the same host only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from weightlift._awaiting import settle
from weightlift._handlers import MODEL_JSON, LoadOptions, StoreHandler
from weightlift._job import SaveOptions
from weightlift._router import ROUTER, Options, Router
from weightlift._source import first_of_directory
from weightlift._urls import Url, as_text, redacted, scheme_of
from weightlift.errors import RoutingError, UnsupportedFeatureError
from weightlift.formats._tfjs_upload import TfjsUpload
from weightlift.types import ModelArtifacts, SaveResult

if TYPE_CHECKING:
    from weightlift.stores._http import HttpOptions

__all__ = ["HttpHandler", "http", "register_http"]

SCHEMES = ("http", "https")
TF_HUB_FILE = "model.json?tfjs-format=file"
UrlConverter = Callable[[str], "str | Awaitable[str]"]

_OWN = ("form", "weight_path_prefix", "weight_url_converter", "from_tf_hub", "request")


class HttpHandler:
    """A model at an HTTP URL: ``load`` fetches it, ``save`` uploads it; made by :func:`weightlift.http`."""

    def __init__(
        self,
        url: str,
        http: HttpOptions,
        *,
        form: Mapping[str, str] | None = None,
        weight_path_prefix: str | None = None,
        weight_url_converter: UrlConverter | None = None,
        from_tf_hub: bool = False,
        save_options: SaveOptions | None = None,
        load_options: LoadOptions | None = None,
    ) -> None:
        """See :func:`weightlift.http`."""
        if from_tf_hub:
            url = f"{url.rstrip('/')}/{TF_HUB_FILE}"
        self.url = url
        self._http = http
        self._form = form
        self._prefix = weight_path_prefix
        self._converter = weight_url_converter
        self._save_options = save_options or SaveOptions()
        self._load_options = load_options or LoadOptions()

    def __repr__(self) -> str:
        """The URL, without secrets."""
        return f"<HttpHandler {redacted(self.url)}>"

    def save(self, artifacts: ModelArtifacts) -> SaveResult:
        """Send a model as one multipart request; ``responses`` of the result holds the answer.

        Raises:
            TransportError: The server did not take it; ``status`` says why.
            UnsupportedFeatureError: The request cannot hold it.
        """
        from weightlift.stores._http_form import WEIGHTS_FIELD, FormStore

        store = FormStore(self.url, self._http, self._form)
        form = TfjsUpload(weights=f"./{WEIGHTS_FIELD}", always=True)
        result = StoreHandler(store, form, MODEL_JSON, save_options=self._save_options).write(artifacts)
        store.finish()
        info = replace(artifacts, weights={}, weight_specs=form.weight_specs).info()
        return replace(
            result,
            model_artifacts_info=replace(info, weight_data_bytes=store.weight_bytes),
            responses=() if store.upload is None else (store.upload.response,),
        )

    def load(self) -> ModelArtifacts:
        """Fetch the document; weights are fetched, and verified, when they are touched.

        Raises:
            NotFoundError: There is none at the URL.
            TransportError: The server, or the way to it, failed for good.
            FormatError: What came is not a model.
        """
        from weightlift.stores._http import HttpStore

        store = HttpStore(self.url, self._http, self._address if self._prefix or self._converter else None)
        name = store.name or first_of_directory(store)
        return StoreHandler(store, None, name, load_options=self._load_options).load()

    def _address(self, relative: str) -> str:
        """Where a weight file is, if the caller said so."""
        if self._converter is not None:
            return str(settle(self._converter(relative)))
        prefix = self._prefix or ""
        return f"{prefix}{'' if prefix.endswith(('/', '=')) else '/'}{quote(relative)}"


def http(
    url: Url,
    *,
    form: Mapping[str, str] | None = None,
    weight_path_prefix: str | None = None,
    weight_url_converter: UrlConverter | None = None,
    from_tf_hub: bool = False,
    **options: Any,
) -> HttpHandler:
    """A handler for models at an HTTP(S) URL, as ``tf.io.http``; for :func:`save_model` and :func:`load_model`.

    Args:
        url: Of ``model.json``, or where to upload.
        form: Further fields of the upload's multipart body.
        weight_path_prefix: URL of the directory of the weight files; default: that of ``model.json``.
        weight_url_converter: Gives the URL of a weight file, given its name in the manifest; may be async.
        from_tf_hub: ``url`` is a model's page on TensorFlow Hub.
        options: How requests are made: ``headers``, ``auth`` ((user, password) or a bearer token), ``netrc``,
            ``method`` (of uploads; default POST), ``ca_file``, ``client_cert``, ``tls_verify``, ``proxy``,
            ``connect_timeout``, ``timeout`` (seconds without a byte), ``total_timeout``, ``attempts``, ``backoff``,
            ``max_redirects``, ``connections``, ``part_bytes``, ``http_version``, ``cache``, ``cache_bytes``.

    Raises:
        RoutingError: Not an HTTP URL.
        TypeError: An option that there is not.

    Example:
        >>> import weightlift as wl
        >>> wl.http("https://example.com/models/a/model.json", auth="token", timeout=5)
        <HttpHandler https://example.com/models/a/model.json>
    """
    text = as_text(url)
    if scheme_of(text) not in SCHEMES:
        raise RoutingError("not an http:// or https:// URL", url=text)
    given = {
        "form": form,
        "weight_path_prefix": weight_path_prefix,
        "weight_url_converter": weight_url_converter,
        "from_tf_hub": from_tf_hub,
        **options,
    }
    return _handler(text, given)


def _handler(url: str, options: Mapping[str, Any]) -> HttpHandler:
    """A handler with options of all kinds, each going where it belongs."""
    from weightlift.stores._http import HttpOptions

    own = {k: options[k] for k in _OWN if k in options and k != "request"}
    saving = {f.name for f in fields(SaveOptions)}
    loading = {f.name for f in fields(LoadOptions)}
    rest = {k: v for k, v in options.items() if k not in saving and k not in loading and k not in _OWN}
    if options.get("shard_size") is not None:
        raise UnsupportedFeatureError("an upload has one file of weights: leave shard_size out")
    return HttpHandler(
        url,
        HttpOptions.of({**_request(options.get("request")), **rest}, url),
        save_options=SaveOptions(**{k: v for k, v in options.items() if k in saving}),
        load_options=LoadOptions(**{k: v for k, v in options.items() if k in loading}),
        **own,
    )


def _request(init: Mapping[str, Any] | None) -> dict[str, Any]:
    """TensorFlow.js's ``requestInit``: headers and method; credentials are this library's ``auth``."""
    if init is None:
        return {}
    unknown = [k for k in init if k not in ("headers", "method", "credentials", "mode")]
    if unknown:
        raise UnsupportedFeatureError(
            f"request: {', '.join(unknown)} is not known; headers, method and credentials are"
        )
    result = {k: init[k] for k in ("headers", "method") if k in init}
    if init.get("credentials") == "omit":
        result["netrc"] = False
    return result


def register_http(router: Router) -> None:
    """Let a router serve HTTP URLs."""
    router.register_save(_if_http, schemes=SCHEMES)
    router.register_load(_if_http, schemes=SCHEMES)


def _if_http(url: str, options: Options) -> HttpHandler | None:
    return _handler(url, options) if scheme_of(url) in SCHEMES else None


register_http(ROUTER)
