"""The headers that the page is to be sent with, and the files by which common hosts are told so."""

from __future__ import annotations

import json

# 'wasm-unsafe-eval' lets WebAssembly be compiled, and no JavaScript; blob: is a clip or picture that the user chose.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self'",
        "connect-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "style-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
HEADERS = {
    # A page may share memory between threads, so compute on several, only where these two isolate it.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asks whether it changed; the service worker keeps what did not
}
TYPES = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
    ".bin": "application/octet-stream",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
}


def files() -> dict[str, str]:
    """By name, what tells Netlify and Cloudflare Pages, Apache, Vercel and nginx to send the headers."""
    lines = [f"{name}: {value}" for name, value in HEADERS.items()]
    types = {suffix: kind for suffix, kind in TYPES.items() if suffix not in (".js", ".onnx", ".bin")}
    apache = [
        *(f"AddType {kind} {suffix}" for suffix, kind in types.items()),
        "<IfModule mod_headers.c>",
        *(f'  Header set {name} "{value}"' for name, value in HEADERS.items()),
        "</IfModule>",
    ]
    nginx = [
        "# Inside the page's `location` block: include this file. Its own mime.types must know .wasm and .mjs.",
        *(f'add_header {name} "{value}" always;' for name, value in HEADERS.items()),
    ]
    every = [{"key": name, "value": value} for name, value in HEADERS.items()]
    vercel = {"headers": [{"source": "/(.*)", "headers": every}]}
    return {
        "_headers": "\n  ".join(["/*", *lines]) + "\n",
        ".htaccess": "\n".join(apache) + "\n",
        "nginx.conf": "\n".join(nginx) + "\n",
        "vercel.json": json.dumps(vercel, indent=1) + "\n",
        ".nojekyll": "",  # GitHub Pages then takes the files as they are; it sends no headers, the service worker does
    }
