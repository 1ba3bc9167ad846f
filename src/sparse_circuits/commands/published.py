"""The verb on published circuits: from a file of the paper's release to a circuit folder."""

from sparse_circuits.commands.common import DEFAULTS, Output, Shared, Where, headline, usable_device


def circuit_import(
    path: Where,
    out: str,
    model: str | None = None,
    task: str | None = None,
    reference: str | None = None,
    common: Shared = DEFAULTS,
) -> Output:
    """Makes a circuit folder of a published circuit (viz_data.pt).

    Args:
        path: The viz_data.pt.
        out: Folder of the circuit.
        model: Its model, to read the weights of edges from; without it they stay unknown.
        task: Name of its task; by default the one in the published layout viz/MODEL/TASK/SWEEP/K/viz_data.pt.
        reference: File or model folder with ablation values (needs --model); without them the circuit cannot be scored.
    """
    from sparse_circuits.circuit.ablation import load_reference
    from sparse_circuits.files import check_replaceable
    from sparse_circuits.hub.load import load_model
    from sparse_circuits.hub.published import import_circuit

    check_replaceable(out, "circuit")
    if reference is not None and model is None:
        raise ValueError("--reference belongs to a model; give --model too")
    loaded = None if model is None else load_model(model, usable_device(common.device))
    found = import_circuit(path, task=task, model=loaded)
    if loaded is not None and reference is not None:
        measured = load_reference(reference, loaded)
        facts = {"tokens": measured.tokens, "corpus_hash": measured.corpus_hash}
        circuit = found.circuit.with_reference(measured.values, "mean_pretrain").replace(reference=facts)
        found = found.replace(circuit=circuit)
    found.save(out)
    summary = found.circuit.summary()
    said = found.summary()
    lines = [headline(summary), f"effects of {said['effects']} edges and {said['effects_bias']} biases"]
    if found.comparison is not None:
        lines.append(
            f"against the model: {said['zero_weight']} published edges have weight 0, "
            f"{said['unlisted']} nonzero weights have no published effect"
        )
    lines += [f"note: {note}" for note in said["notes"]]
    return Output({**summary, "published": said, "path": out}, "\n".join([*lines, f"circuit in {out}"]))
