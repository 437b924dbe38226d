"""Texts that would run a script if a page treated them as HTML or as a template."""

PAYLOADS = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg onload=window.hacked=1>',
    "</li></ol></template><iframe src='javascript:window.hacked=1'></iframe>",
    "{{ constructor.constructor('window.hacked=1')() }} ${window.hacked=1} &lt;b&gt;",
]
