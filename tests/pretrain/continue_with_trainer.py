"""Run by a test under accelerate launch: one step of transformers' Trainer from a folder that bertcraft wrote."""

import json
import os
import sys
from pathlib import Path

import torch
import transformers


def main(model_folder: str, out: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(model_folder)
    rows = [tokenizer("bal ban bar gel gen", truncation=True, max_length=16) for _ in range(16)]
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)
    arguments = transformers.TrainingArguments(
        out, per_device_train_batch_size=4, max_steps=1, use_cpu=True, report_to=[], save_strategy="no", logging_steps=1
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
    result = trainer.train()
    trainer.save_model(out)
    if trainer.is_world_process_zero():
        told = {"processes": torch.distributed.get_world_size(), "steps": result.global_step, "loss": result.training_loss}
        Path(out, "told.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    os._exit(0)  # torch's own end at times aborts or hangs: its destructors join a thread that waits for the interpreter's lock


if __name__ == "__main__":
    main(*sys.argv[1:])
