"""What a model in use is exported to: the files of `transformers`, of another engine, or an adapter's."""

from __future__ import annotations

from pathlib import Path

from pretune.evaluate.read import AdapterFormat, Source, export_tuned, plain_network
from pretune.evaluate.uses import USES
from pretune.interop.adapter_files import ExportedAdapter
from pretune.interop.export import Exported, Format, export_model
from pretune.interop.export_target import ExportedTarget, export_to
from pretune.interop.weights import SHARD_BYTES
from pretune.models.model import LanguageModel
from pretune.nn.vectors import PoolingMode
from pretune.text.tokenizer.tokenizer import Tokenizer


class Exports:
    """The exports of a model in use.

    Attributes:
        network: that is exported; it is not changed.
        tokenizer: that it was trained with.
    """

    network: LanguageModel
    tokenizer: Tokenizer
    _source: Source
    _is_bf16: bool

    def export(
        self,
        directory: Path | str,
        *,
        format: Format = "fp32",
        max_shard_bytes: int = SHARD_BYTES,
        pooling: PoolingMode | None = None,
    ) -> Exported:
        """Write the model for `transformers`; done when the files were read again, by its own reader too, and compared.

        Args:
            format: of the weights in the files.
            max_shard_bytes: of one file of weights.
            pooling: write what `sentence-transformers` reads too, whose vectors are those of `embed(texts, pooling)`;
                by default the modules, prompts and lengths that the model's training or its files said, if any.

        Raises:
            DataError: what was read again differs, and nothing was changed in the directory; or the model was rounded
                to bf16 when it was loaded, and its files have changed since.
            CannotCreateError: the directory holds anything but an earlier export of this model.
        """
        return export_model(
            plain_network(self.network, self._source, self.tokenizer, is_rounded=self._is_bf16),
            directory,
            self.tokenizer,
            format=format,
            max_shard_bytes=max_shard_bytes,
            pooling=pooling,
            uses=USES,
        )

    def export_for(self, target: str, output: Path | str, type: str | None = None) -> ExportedTarget:
        """Write the model for another engine; done when it was read back and compared.

        Args:
            target: gguf, onnx, ctranslate2, compressed-tensors, sentence-transformers, or a file of your own by its
                path.
            output: a new file or an empty folder, as the target wants.
            type: of the weights; by default as they are stored, else the target's usual one.

        Raises:
            DataError: the target lacks what the model has, or what was read back differs; nothing was written.
            MissingPackageError: a package that the target needs is not installed.
        """
        rounded = self._is_bf16
        plain = plain_network(self.network, self._source, self.tokenizer, is_rounded=rounded, keeps_formats=True)
        return export_to(target, plain, self.tokenizer, Path(output), type, USES)

    def export_adapter(self, directory: Path | str, format: AdapterFormat = "peft") -> ExportedAdapter:
        """Write what a tuning method learned as an adapter of another library; read again, it must compute the same.

        Args:
            format: `peft`, or `adapters` (AdapterHub).

        Raises:
            UsageError: a whole model, or no such format.
            CannotCreateError: the directory holds something.
            DataError: the library's files have no place for what was learned.
        """
        rounded = self._is_bf16
        return export_tuned(
            self.network, Path(directory), self._source, self.tokenizer, is_rounded=rounded, format=format
        )

    save = export  # the word that users of other libraries look for
