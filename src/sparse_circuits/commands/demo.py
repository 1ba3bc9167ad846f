"""The verb that shows what is in the box."""

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, usable_device


def demo(out: str | None = None, open: bool = True, common: Shared = DEFAULTS) -> Output:
    """Opens the pages of the circuits in the box, offline, without training anything.

    Args:
        out: Folder of the pages; a temporary one by default.
        open: Also open them in the browser.
    """
    import tempfile
    import time
    import webbrowser

    from sparse_circuits.bundled.folders import bundled_circuits
    from sparse_circuits.circuit.circuit import load_circuit
    from sparse_circuits.hub.load import load_model, load_tokenizer
    from sparse_circuits.tasks.load import load_task
    from sparse_circuits.viz.gallery import write_gallery

    begun = time.perf_counter()
    circuits = {name: (load_circuit(folder), load_task(name)) for name, folder in bundled_circuits().items()}
    model, tokenizer = load_model("bundled", usable_device(common.device)), load_tokenizer("bundled")
    folder = tempfile.mkdtemp(prefix="sparse-circuits-") if out is None else out
    index = write_gallery(circuits, model, tokenizer, folder, progress=common.progress)
    opened = open and webbrowser.open(index.absolute().as_uri())
    seconds = time.perf_counter() - begun
    data = {"report": str(index), "circuits": list(circuits), "opened": bool(opened), "seconds": seconds}
    return Output(data, f"{len(circuits)} circuits in {seconds:.1f} s: {index}")
