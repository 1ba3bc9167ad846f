"""Verbs on text: tokenizer and token shards."""

from sparse_circuits.commands.common import DEFAULTS, Output, Shared


def data_tokenizer(source: tuple[str, ...], out: str, vocab_size: int = 1024, common: Shared = DEFAULTS) -> Output:
    """Trains a byte-level BPE tokenizer.

    Args:
        source: tiny-python[:SIZE], python-env[:SIZE], a file, folder or glob (.py, .txt, .jsonl, .parquet[:column=NAME]),
            hf:owner/name or hf:./folder; several may follow.
        out: Folder of the tokenizer.
        vocab_size: Tokens, end-of-text included.
    """
    from sparse_circuits.data.corpus import open_sources
    from sparse_circuits.data.tokenizer import save_tokenizer, tokenizer_hash, train_tokenizer

    texts = (document.text for part in open_sources(source) for document in part.documents(common.seed))
    tokenizer = train_tokenizer(texts, vocab_size, progress=common.progress)
    save_tokenizer(tokenizer, out)
    data = {"path": out, "tokens": vocab_size, "hash": tokenizer_hash(tokenizer)}
    return Output(data, f"tokenizer of {vocab_size} tokens in {out}")


def data_build(
    source: tuple[str, ...], tokenizer: str, out: str, val_fraction: float = 0.02, common: Shared = DEFAULTS
) -> Output:
    """Turns a corpus into token shards for training and validation.

    Args:
        source: tiny-python[:SIZE], python-env[:SIZE], a file, folder or glob (.py, .txt, .jsonl, .parquet[:column=NAME]),
            hf:owner/name or hf:./folder; several may follow.
        tokenizer: Folder of the tokenizer.
        out: Folder of the shards.
        val_fraction: Share of the documents kept for validation; mined pairs are cut from it, 0.2 leaves them enough files.
    """
    from sparse_circuits.data.corpus import open_sources
    from sparse_circuits.data.shards import build_shards
    from sparse_circuits.hub.load import load_tokenizer

    shards = build_shards(
        open_sources(source),
        load_tokenizer(tokenizer),
        out,
        val_fraction=val_fraction,
        seed=common.seed,
        progress=common.progress,
    )
    tokens, documents = shards.manifest["tokens"], shards.manifest["documents"]
    data = {"path": out, "tokens": sum(tokens.values()), "documents": sum(documents.values()), "splits": tokens}
    return Output(data, f"{data['tokens']:,} tokens of {data['documents']:,} documents in {out}")
