"""The HTTP client of whoever is asked, the control plane and teachers alike."""

from __future__ import annotations

import httpx

from preceptor.errors import Invalid


def http_client(
    url: str,
    key: str | None,
    *,
    transport: httpx.BaseTransport | None,
    timeout: httpx.Timeout | float,
    remedy: str | None = None,
) -> httpx.Client:
    """Shows the key, and to nobody whom a redirect names. Raises Invalid, with this remedy, where the URL is none."""
    headers = {"Authorization": f"Bearer {key.strip()}"} if key else {}
    try:
        return httpx.Client(base_url=url, headers=headers, transport=transport, timeout=timeout, follow_redirects=False)
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid(f"url: {url!r} is not a URL ({error}).", field="url", remedy=remedy) from error
