"""The demo keeps its promises: memory, time, learning, and every bit."""

from bench import demo


def test_one_epoch(tmp_path):
    result = demo.run(epochs=1)
    assert result.steps == 23
    assert result.compared == 16 * 23
    assert result.identical == result.compared
    assert result.eager.loss == result.compiled.loss
    assert result.eager.accuracy == result.compiled.accuracy > 0.5
    assert result.saved_ratio <= 0.35
    assert result.time_ratio <= 1.05
    demo.draw(result, tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_gradient_is_seen(monkeypatch):
    class OneBitOff(demo.Contestant):
        def gradients(self, images, labels):
            found = super().gradients(images, labels)
            if self.name == "fxpass":
                found[0].view(-1)[0].mul_(1 + 1e-6)
            return found

    monkeypatch.setattr(demo, "Contestant", OneBitOff)
    result = demo.run(epochs=1, most_steps=2)
    assert (result.compared, result.identical) == (32, 30)
