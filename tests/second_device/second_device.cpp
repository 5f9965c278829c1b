// A device of its own to PyTorch, whose memory is the computer's: what a GPU refuses is refused, without a GPU.
//
// Every operation is computed by the CPU's kernel on CPU tensors that show the same bytes; what it returns becomes a
// tensor of this device again. Only the fused recurrent cells, which no CPU kernel exists for, are written out.

#include <torch/extension.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;
constexpr auto SECOND = c10::DeviceType::PrivateUse1;
const c10::Device HERE(SECOND, 0);

// ---------------------------------------------------------------- memory

// Bytes of this device keep the CPU storage alive that they belong to.
c10::DataPtr lent(const c10::Storage& cpu) {
  auto* owner = new c10::Storage(cpu);
  return {owner->mutable_data(), owner, [](void* kept) { delete static_cast<c10::Storage*>(kept); }, HERE};
}

c10::Storage cpu_storage(size_t bytes, c10::DataPtr data) {
  return c10::Storage(
      c10::Storage::use_byte_size_t(), bytes, std::move(data), c10::GetCPUAllocator(), /*resizable=*/true);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) {
      return {nullptr, HERE};
    }
    return lent(cpu_storage(bytes, c10::GetCPUAllocator()->allocate(bytes)));
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};
Memory memory;
REGISTER_ALLOCATOR(SECOND, &memory);

// ---------------------------------------------------------------- random numbers

// A generator that belongs to this device; the numbers come from one of the CPU.
struct SecondGenerator final : c10::GeneratorImpl {
  at::Generator inner;

  explicit SecondGenerator(at::Generator source)
      : c10::GeneratorImpl(HERE, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)), inner(std::move(source)) {}
  void set_current_seed(uint64_t seed) override { inner.set_current_seed(seed); }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return inner.seed(); }
  void set_offset(uint64_t offset) override { inner.set_offset(offset); }
  uint64_t get_offset() const override { return inner.get_offset(); }
  void set_state(const c10::TensorImpl& state) override { inner.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return inner.unsafeGetGeneratorImpl()->get_state();
  }
  SecondGenerator* clone_impl() const override { return new SecondGenerator(inner.clone()); }
};

at::Generator new_generator() {
  return at::make_generator<SecondGenerator>(at::make_generator<at::CPUGeneratorImpl>());
}

const at::Generator& default_generator() {
  static const at::Generator generator = new_generator();
  return generator;
}

at::Generator behind(const at::Generator& generator) {
  TORCH_CHECK(
      generator.device().type() == SECOND,
      "Expected a '", HERE.type(), "' device type for generator but found '", generator.device().type(), "'");
  return static_cast<SecondGenerator*>(generator.unsafeGetGeneratorImpl())->inner;
}

// ---------------------------------------------------------------- one operation

// The tensors and storages of one call, each beside the CPU's view of it.
class Call {
 public:
  Tensor show(const Tensor& tensor) {
    for (const auto& [ours, cpu] : tensors_) {
      if (ours.is_same(tensor)) {
        return cpu;
      }
    }
    auto cpu = at::detail::make_tensor<c10::TensorImpl>(
        show(tensor.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
    copy_geometry(tensor, cpu);
    if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) {
      cpu.unsafeGetTensorImpl()->set_wrapped_number(true);
    }
    tensors_.emplace_back(tensor, cpu);
    return cpu;
  }

  c10::Storage show(const c10::Storage& storage) {
    for (const auto& [ours, cpu] : storages_) {
      if (ours.is_alias_of(storage)) {
        return cpu;
      }
    }
    void* bytes = storage.mutable_data();
    // The view owns nothing: the call's caller holds the bytes.
    auto cpu = cpu_storage(storage.nbytes(), c10::DataPtr(bytes, c10::Device(at::kCPU)));
    storages_.emplace_back(storage, cpu);
    return cpu;
  }

  // A result as a tensor of this device; a view of an argument stays one.
  Tensor take(const Tensor& cpu) {
    if (!cpu.defined() || cpu.device().type() == SECOND) {
      return cpu;
    }
    for (const auto& [ours, shown] : tensors_) {
      if (shown.is_same(cpu)) {
        return ours;
      }
    }
    auto ours = at::detail::make_tensor<c10::TensorImpl>(
        take(cpu.storage()), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), cpu.dtype());
    copy_geometry(cpu, ours);
    tensors_.emplace_back(ours, cpu);
    return ours;
  }

  c10::Storage take(const c10::Storage& cpu) {
    for (const auto& [ours, shown] : storages_) {
      if (shown.is_alias_of(cpu)) {
        return ours;
      }
    }
    c10::Storage ours(c10::Storage::use_byte_size_t(), cpu.nbytes(), lent(cpu), &memory, /*resizable=*/true);
    storages_.emplace_back(ours, cpu);
    return ours;
  }

  // What the kernel did to its arguments themselves: other bytes, another size, another storage.
  void bring_back() {
    for (const auto& [ours, cpu] : storages_) {
      if (cpu.data() != ours.data()) {
        ours.unsafeGetStorageImpl()->set_data_ptr(lent(cpu));
      }
      ours.unsafeGetStorageImpl()->set_nbytes(cpu.nbytes());
    }
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const auto [ours, cpu] = tensors_[i];
      auto storage = take(cpu.storage());
      if (!storage.is_alias_of(ours.storage())) {
        ours.unsafeGetTensorImpl()->set_storage_keep_dtype(storage);
      }
      if (ours.sizes() != cpu.sizes() || ours.strides() != cpu.strides() ||
          ours.storage_offset() != cpu.storage_offset()) {
        copy_geometry(cpu, ours);
      }
    }
  }

 private:
  static void copy_geometry(const Tensor& from, const Tensor& to) {
    to.unsafeGetTensorImpl()->set_sizes_and_strides(from.sizes(), from.strides(), from.storage_offset());
    to._set_conj(from.is_conj());
    to._set_neg(from.is_neg());
  }

  std::vector<std::pair<Tensor, Tensor>> tensors_;
  std::vector<std::pair<c10::Storage, c10::Storage>> storages_;
};

template <typename Visit>
void each_tensor(const c10::IValue& value, Visit visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorVector()) {
      visit(tensor);
    }
  } else if (value.isList()) {
    for (const c10::IValue& item : value.toListRef()) {
      each_tensor(item, visit);
    }
  }
}

template <typename Change>
c10::IValue with_tensors(const c10::IValue& value, Change change) {
  if (value.isTensor()) {
    return change(value.toTensor());
  }
  if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorVector()) {
      changed.push_back(change(tensor));
    }
    return changed;
  }
  if (value.isList()) {
    auto changed = value.toList().copy();
    for (size_t i = 0; i < changed.size(); ++i) {
      changed.set(i, with_tensors(changed.get(i), change));
    }
    return changed;
  }
  return value;
}

// As CUDA has it: a single number may come from the CPU, and so may the indices into a tensor of the device.
void refuse_two_devices(const c10::OperatorHandle& op, c10::ArrayRef<c10::IValue> arguments) {
  static const std::set<std::string> joins{"aten::cat", "aten::stack", "aten::linear", "aten::index_select"};
  static const std::set<std::string> indexes{"aten::index", "aten::index_put", "aten::index_put_",
                                             "aten::_index_put_impl_", "aten::_unsafe_index"};
  const auto& name = op.schema().name();
  bool numbers = joins.count(name) == 0, indices = indexes.count(name) > 0, here = false, foreign = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    each_tensor(arguments[i], [&](const Tensor& tensor) {
      if (!tensor.defined()) {
        return;
      }
      if (tensor.device().type() == SECOND) {
        here = true;
      } else if (!(numbers && tensor.dim() == 0) && !(indices && i == 1)) {
        foreign = true;
      }
    });
  }
  for (const c10::IValue& value : arguments) {
    const bool ours = value.isGenerator() && value.toGenerator().device().type() == SECOND;
    TORCH_CHECK(
        !(ours && foreign), "Expected a 'cpu' device type for generator but found '", HERE.type(), "' (when calling ",
        name, ")");
  }
  TORCH_CHECK(
      !(here && foreign), "Expected all tensors to be on the same device, but found at least two devices, ", HERE,
      " and cpu! (when calling ", name, ")");
}

void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size(), first = stack->size() - count;
  refuse_two_devices(op, c10::ArrayRef<c10::IValue>(*stack).slice(first));
  Call call;
  auto show = [&](const Tensor& tensor) {
    return tensor.defined() && tensor.device().type() == SECOND ? call.show(tensor) : tensor;
  };
  const std::vector<c10::IValue> held(stack->begin() + static_cast<std::ptrdiff_t>(first), stack->end());
  for (size_t i = 0; i < count; ++i) {
    c10::IValue& value = (*stack)[first + i];
    if (schema.arguments()[i].name() == "generator") {
      value = behind(value.isNone() ? default_generator() : value.toGenerator());
    } else if (value.isDevice() && value.toDevice().type() == SECOND) {
      value = c10::Device(at::kCPU);
    } else if (value.isStorage() && value.toStorage().device_type() == SECOND) {
      value = call.show(value.toStorage());
    } else {
      value = with_tensors(value, show);
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  call.bring_back();
  for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
    (*stack)[i] = with_tensors((*stack)[i], [&](const Tensor& tensor) { return call.take(tensor); });
  }
}

// The door between the devices.
Tensor copy_from(const Tensor& from, const Tensor& to, bool /*non_blocking*/) {
  Call call;
  auto show = [&](const Tensor& tensor) { return tensor.device().type() == SECOND ? call.show(tensor) : tensor; };
  show(to).copy_(show(from));
  return to;
}

// ---------------------------------------------------------------- recurrent cells

Tensor biased(const Tensor& gates, const MaybeTensor& bias) {
  return bias.has_value() && bias->defined() ? gates + *bias : gates;
}

Tensor or_zero(const MaybeTensor& gradient, const Tensor& like) {
  return gradient.has_value() && gradient->defined() ? *gradient : at::zeros_like(like);
}

Tensor through_sigmoid(const Tensor& gradient, const Tensor& gate) { return gradient * gate * (1 - gate); }
Tensor through_tanh(const Tensor& gradient, const Tensor& gate) { return gradient * (1 - gate.square()); }

// h = o tanh(c), c = f c' + i k; the gates are kept for the way back.
std::tuple<Tensor, Tensor, Tensor> lstm_cell(
    const Tensor& from_input, const Tensor& from_state, const Tensor& c_past, const MaybeTensor& bias_input,
    const MaybeTensor& bias_state) {
  auto sums = biased(from_input, bias_input) + biased(from_state, bias_state);
  auto parts = sums.chunk(4, 1);
  auto i = at::sigmoid(parts[0]), f = at::sigmoid(parts[1]), k = at::tanh(parts[2]), o = at::sigmoid(parts[3]);
  auto c = f * c_past + i * k;
  return {o * at::tanh(c), c, at::cat({i, f, k, o}, 1)};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(
    const MaybeTensor& grad_h, const MaybeTensor& grad_c, const Tensor& c_past, const Tensor& c, const Tensor& kept,
    bool has_bias) {
  auto parts = kept.chunk(4, 1);
  const auto &i = parts[0], &f = parts[1], &k = parts[2], &o = parts[3];
  auto bent = at::tanh(c), dh = or_zero(grad_h, c);
  auto dc = or_zero(grad_c, c) + through_tanh(dh * o, bent);
  auto gates = at::cat(
      {through_sigmoid(dc * k, i), through_sigmoid(dc * c_past, f), through_tanh(dc * i, k),
       through_sigmoid(dh * bent, o)},
      1);
  return {gates, dc * f, has_bias ? gates.sum(0) : Tensor()};
}

// h = (1 - s) n + s h', n = tanh(a_n + r b_n)
std::tuple<Tensor, Tensor> gru_cell(
    const Tensor& from_input, const Tensor& from_state, const Tensor& h_past, const MaybeTensor& bias_input,
    const MaybeTensor& bias_state) {
  auto a = biased(from_input, bias_input).chunk(3, 1), b = biased(from_state, bias_state).chunk(3, 1);
  auto r = at::sigmoid(a[0] + b[0]), s = at::sigmoid(a[1] + b[1]), n = at::tanh(a[2] + r * b[2]);
  return {(1 - s) * n + s * h_past, at::cat({r, s, n, b[2], h_past}, 1)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(
    const Tensor& grad_h, const Tensor& kept, bool has_bias) {
  auto parts = kept.chunk(5, 1);
  const auto &r = parts[0], &s = parts[1], &n = parts[2], &b_n = parts[3], &h_past = parts[4];
  auto sum_n = through_tanh(grad_h * (1 - s), n);
  auto sum_s = through_sigmoid(grad_h * (h_past - n), s), sum_r = through_sigmoid(sum_n * b_n, r);
  auto to_input = at::cat({sum_r, sum_s, sum_n}, 1), to_state = at::cat({sum_r, sum_s, sum_n * r}, 1);
  return {
      to_input, to_state, grad_h * s, has_bias ? to_input.sum(0) : Tensor(), has_bias ? to_state.sum(0) : Tensor()};
}

// ---------------------------------------------------------------- convolution over time

// PyTorch hands over one dimension as two, the first of size one.
void refuse_other_convolutions(const Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding, bool transposed,
                               int64_t groups) {
  const bool plain = weight.dim() == 4 && weight.size(2) == 1 && !transposed && groups == 1;
  const auto all = [](at::IntArrayRef values, int64_t wanted) {
    return std::all_of(values.begin(), values.end(), [&](int64_t value) { return value == wanted; });
  };
  TORCH_CHECK(plain && all(stride, 1) && all(padding, 0),
              "the second device convolves over one dimension, at stride 1, without padding or groups");
}

// y_t = sum_k W_k x_{t + kD}
Tensor convolution(const Tensor& input, const Tensor& weight, const MaybeTensor& bias, at::IntArrayRef stride,
                   at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef /*output*/,
                   int64_t groups) {
  refuse_other_convolutions(weight, stride, padding, transposed, groups);
  const auto x = input.squeeze(2), w = weight.squeeze(2);
  const int64_t apart = dilation[1], length = x.size(2) - (w.size(2) - 1) * apart;
  Tensor y;
  for (int64_t k = 0; k < w.size(2); ++k) {
    const auto term = at::matmul(w.select(2, k), x.narrow(2, k * apart, length));
    y = k == 0 ? term : y + term;
  }
  return (bias.has_value() && bias->defined() ? y + bias->view({1, -1, 1}) : y).unsqueeze(2);
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& input, const Tensor& weight, at::IntArrayRef stride, at::IntArrayRef padding,
    at::IntArrayRef dilation, bool transposed, at::IntArrayRef /*output*/, int64_t groups,
    std::array<bool, 3> wanted) {
  refuse_other_convolutions(weight, stride, padding, transposed, groups);
  const auto dy = grad.squeeze(2), x = input.squeeze(2), w = weight.squeeze(2);
  const int64_t apart = dilation[1], length = dy.size(2);
  Tensor to_input, to_weight, to_bias;
  if (wanted[0]) {
    to_input = at::zeros_like(x);
    for (int64_t k = 0; k < w.size(2); ++k) {
      to_input.narrow(2, k * apart, length).add_(at::matmul(w.select(2, k).t(), dy));
    }
    to_input = to_input.unsqueeze(2);
  }
  if (wanted[1]) {
    std::vector<Tensor> parts;
    for (int64_t k = 0; k < w.size(2); ++k) {
      parts.push_back(at::matmul(dy, x.narrow(2, k * apart, length).transpose(1, 2)).sum(0));
    }
    to_weight = at::stack(parts, 2).unsqueeze(2);
  }
  if (wanted[2]) {
    to_bias = dy.sum({0, 2});
  }
  return {to_input, to_weight, to_bias};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_copy_from", copy_from);
  m.impl("_thnn_fused_lstm_cell", lstm_cell);
  m.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward);
  m.impl("_thnn_fused_gru_cell", gru_cell);
  m.impl("_thnn_fused_gru_cell_backward", gru_cell_backward);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

// ---------------------------------------------------------------- what PyTorch asks of a device

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr c10::DeviceType static_type = SECOND;
  static c10::Stream only() { return c10::Stream(c10::Stream::DEFAULT, HERE); }
  c10::DeviceType type() const override { return SECOND; }
  c10::Device exchangeDevice(c10::Device /*to*/) const override { return HERE; }
  c10::Device getDevice() const override { return HERE; }
  void setDevice(c10::Device /*to*/) const override {}
  void uncheckedSetDevice(c10::Device /*to*/) const noexcept override {}
  c10::Stream getStream(c10::Device /*of*/) const override { return only(); }
  c10::Stream getNewStream(c10::Device /*on*/, int /*priority*/) const override { return only(); }
  c10::Stream exchangeStream(c10::Stream /*to*/) const override { return only(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** /*event*/, const c10::Stream& /*stream*/, const c10::DeviceIndex /*device*/,
              const c10::EventFlag /*flag*/) const override {}
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return true; }
  void destroyEvent(void* /*event*/, const c10::DeviceIndex /*device*/) const noexcept override {}
  bool queryStream(const c10::Stream& /*stream*/) const override { return true; }
  void synchronizeStream(const c10::Stream& /*stream*/) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*index*/) const override { return true; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*index*/) const override { return default_generator(); }
  at::Generator getNewGenerator(c10::DeviceIndex /*index*/) const override { return new_generator(); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    Call call;
    auto cpu = call.show(storage);
    auto grown = c10::GetCPUAllocator()->allocate(bytes);
    std::memcpy(grown.get(), cpu.data(), std::min(bytes, cpu.nbytes()));
    cpu.set_data_ptr(std::move(grown));
    cpu.set_nbytes(bytes);
    call.bring_back();
  }
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("register_hooks", [] {
    static Hooks hooks;
    at::RegisterPrivateUse1HooksInterface(&hooks);
  });
  m.def("default_generator", [] { return default_generator(); });
}
